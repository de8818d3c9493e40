//! What a person reads: help, contexts, and the words of failures.

use crate::peer::{command, run};

#[tokio::test]
async fn help_at_every_level() {
    for path in [
        &[][..],
        &["job"],
        &["job", "run"],
        &["job", "submit"],
        &["job", "watch"],
        &["job", "retry"],
        &["job", "list"],
        &["job", "logs"],
        &["provider"],
        &["provider", "add"],
        &["provider", "pool"],
        &["provider", "pool", "set"],
        &["provider", "pool", "clear"],
        &["worker"],
        &["context"],
        &["completions"],
    ] {
        let mut arguments = path.to_vec();
        arguments.push("--help");
        let help = run(command(&arguments)).await;
        assert_eq!(help.code, Some(0), "{path:?}");
        insta::assert_snapshot!(format!("help_{}", path.join("_")), help.text());
    }
}

#[tokio::test]
async fn every_shell_gets_its_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        // It needs neither a server nor a context.
        let mut completions = command(&["completions", shell]);
        completions.env("HODEI_CONTEXT", "/nonexistent");
        let script = run(completions).await;
        assert_eq!(script.code, Some(0), "{shell}");
        for word in ["hodei", "completions", "drain", "idempotency-key"] {
            assert!(script.text().contains(word), "{shell} does not know {word}");
        }
    }
}

#[tokio::test]
async fn an_absent_server_is_named_with_what_to_do() {
    for (arguments, code) in [(&["job", "run", "--", "x"][..], 125), (&["job", "list"], 1)] {
        let mut command = command(arguments);
        command.env("HODEI_SERVER_ADDRESS", "127.0.0.1:1");
        let ended = run(command).await;
        assert_eq!(ended.code, Some(code));
        insta::assert_snapshot!("grpc_unreachable", ended.stderr);
    }
}

#[tokio::test]
async fn flags_come_before_the_environment_that_before_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hodei").join("context.toml");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    std::fs::write(
        &file,
        "grpc = \"http://file:1\"\nrest = \"http://file:2\"\nca_file = \"/ca\"\ntoken_file = \"/t\"\n",
    )
    .unwrap();
    let mut show = command(&["context", "show", "--server", "http://flag:1"]);
    show.env("HODEI_REST_ADDRESS", "env:2").env("XDG_CONFIG_HOME", directory.path());
    let shown = run(show).await.text().replace(directory.path().to_str().unwrap(), "~");
    insta::assert_snapshot!("context", shown);
    insta::assert_snapshot!("context_default", run(command(&["context", "show"])).await.text());
    let given = ["context", "show", "--token", "s3cret", "--output", "json"];
    let shown = run(command(&given)).await;
    assert!(shown.text().contains("(given)") && !shown.text().contains("s3cret"), "{shown:?}");
    std::fs::write(&file, "grcp = \"http://file:1\"\n").unwrap();
    let broken = run(command(&["context", "show", "--context", file.to_str().unwrap()])).await;
    assert_eq!(broken.code, Some(2));
    assert!(
        broken.stderr.contains("unknown field") && broken.stderr.contains("make up"),
        "{}",
        broken.stderr
    );
}
