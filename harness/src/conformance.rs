//! The catalogue for a reader: docs/conformance.md, which `make docs` writes from it.

use std::fmt::Write;

use crate::catalogue::{Case, Layer, Profile};

/// What is promised, as GitHub-flavoured Markdown: a table for each layer.
#[must_use]
pub fn to_markdown(cases: &[&Case]) -> String {
    let mut text = String::new();
    write(&mut text, cases).expect("writing to a String cannot fail");
    text
}

fn write(text: &mut String, cases: &[&Case]) -> std::fmt::Result {
    let core = cases.iter().filter(|case| case.profile == Profile::Core).count();
    writeln!(text, "# What a conformant cluster keeps\n")?;
    writeln!(
        text,
        "Made by `make docs` from `suites/catalogue.toml`; a test fails when they part.\n"
    )?;
    writeln!(
        text,
        "{} cases: {core} core ones, which every verdict needs (`make e2e`), and {} extended ones, which \
         need a cluster with more to it (`make e2e-extended`). *Guards* names public bugs of other \
         systems that a case would catch here. A case with the mark ‡ disturbs the whole cluster and runs \
         alone.",
        cases.len(),
        cases.len() - core
    )?;
    for layer in Layer::ALL {
        let of_layer: Vec<_> = cases.iter().filter(|case| case.layer == layer).collect();
        if of_layer.is_empty() {
            continue;
        }
        writeln!(text, "\n## {layer}\n")?;
        writeln!(text, "| case | what is promised | profile | needs | stands for | guards |")?;
        writeln!(text, "|---|---|---|---|---|---|")?;
        for case in of_layer {
            write_row(text, case)?;
        }
    }
    Ok(())
}

fn write_row(text: &mut String, case: &Case) -> std::fmt::Result {
    let needs: Vec<_> = case.features.iter().map(|feature| feature.as_str()).collect();
    writeln!(
        text,
        "| `{}`{} | {} | {} | {} | {} | {} |",
        case.id,
        if case.exclusive { " ‡" } else { "" },
        case.title.replace('|', "\\|"),
        case.profile.as_str(),
        needs.join(", "),
        case.requirement,
        case.guards.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    #[test]
    fn a_reader_sees_each_case_in_its_layer() {
        let catalogue = Catalogue::parse(
            r#"
            [[case]]
            id = "cleanup.gone"
            title = "Nothing | is left"
            layer = "cleanup"
            profile = "extended"
            features = ["node-control", "multi-node"]
            exclusive = true
            requirement = "HU-10.5"
            guards = ["argo#2711"]
            test = "cleanup::test_exclusive_gone"
            "#,
        )
        .unwrap();
        let text = to_markdown(&catalogue.cases.iter().collect::<Vec<_>>());
        assert!(text.contains("1 cases: 0 core ones"), "{text}");
        let row = "\n## cleanup\n\n| case | what is promised | profile | needs | stands for | guards |\n\
                   |---|---|---|---|---|---|\n\
                   | `cleanup.gone` ‡ | Nothing \\| is left | extended | multi-node, node-control | HU-10.5 | argo#2711 |\n";
        assert!(text.ends_with(row), "{text}");
        assert!(!text.contains("## infra"), "{text}");
    }
}
