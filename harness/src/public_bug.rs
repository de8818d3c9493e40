//! The public bugs of other systems that cases guard against: `argo#2711` is an issue (or pull
//! request) of a repository, and has a page of its own.

/// The systems that the catalogue names, and where their issues are.
const ISSUES: [(&str, &str); 12] = [
    ("ARC", "https://github.com/actions/actions-runner-controller/issues"),
    ("BK", "https://github.com/buildkite/agent-stack-k8s/issues"),
    ("airflow", "https://github.com/apache/airflow/issues"),
    ("argo", "https://github.com/argoproj/argo-workflows/issues"),
    ("buildkite-agent", "https://github.com/buildkite/agent/issues"),
    ("gitlab", "https://gitlab.com/gitlab-org/gitlab-runner/-/issues"),
    ("jenkins", "https://github.com/jenkinsci/jenkins/issues"),
    ("k8s", "https://github.com/kubernetes/kubernetes/issues"),
    ("kubernetes-plugin", "https://github.com/jenkinsci/kubernetes-plugin/issues"),
    ("prefect", "https://github.com/PrefectHQ/prefect/issues"),
    ("tekton", "https://github.com/tektoncd/pipeline/issues"),
    ("woodpecker", "https://github.com/woodpecker-ci/woodpecker/issues"),
];

/// The page of a bug; `None` for one that is not `system#number` of a known system.
#[must_use]
pub fn url(bug: &str) -> Option<String> {
    let (system, number) = bug.split_once('#')?;
    let number: u64 = number.parse().ok()?;
    let (_, issues) = ISSUES.iter().find(|(name, _)| *name == system)?;
    Some(format!("{issues}/{number}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::catalogue::Catalogue;

    #[test]
    fn only_numbers_of_known_systems_have_a_page() {
        let page = "https://github.com/argoproj/argo-workflows/issues/2711";
        assert_eq!(url("argo#2711").as_deref(), Some(page));
        for strange in ["argo", "argo#", "argo#27/../..", "argo#\"><script>", "nobody#1", "#1"] {
            assert_eq!(url(strange), None, "{strange}");
        }
    }

    #[test]
    fn every_guard_of_the_catalogue_has_a_page() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let catalogue = Catalogue::read(workspace).unwrap();
        let guards: Vec<_> = catalogue.cases.iter().flat_map(|case| &case.guards).collect();
        assert!(guards.len() > 20, "{guards:?}");
        for guard in guards {
            assert!(url(guard).is_some(), "{guard} is of a system without a repository here");
        }
    }
}
