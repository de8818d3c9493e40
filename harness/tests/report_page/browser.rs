//! A browser without a window, driven by its command line. Each start is one of a fresh user, and ends
//! by itself or at its deadline.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hodei_harness::check_tools::BROWSERS;
use hodei_harness::process::{Command, Output};
use hodei_harness::progress::Progress;
use serde::Deserialize;

/// How long one start may take, on a machine that does other things too.
const DEADLINE: Duration = Duration::from_secs(180);
/// The narrowest window that a browser makes, in pixels: what is narrower is a frame in it.
const NARROWEST: u32 = 500;

/// What a person has set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Light,
    Dark,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

/// How the page is looked at; lengths in pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) scheme: Scheme,
    /// Everything that can be unfolded is.
    pub(crate) unfolded: bool,
}

/// A page that was loaded by itself.
pub(crate) struct Loaded {
    pub(crate) document: String,
    /// What its console said: errors of scripts, and what its policy refused.
    pub(crate) console: Vec<String>,
}

/// What a page was like in a window.
#[derive(Debug, Deserialize)]
pub(crate) struct Seen {
    pub(crate) page_width: u32,
    pub(crate) window_width: u32,
    pub(crate) page_height: u32,
    pub(crate) filter_is_shown: bool,
    /// What the filter says.
    pub(crate) shown: String,
    /// Rows of cases.
    pub(crate) rows: u32,
    /// Elements that reach beyond the window, where nothing around them scrolls.
    pub(crate) overflowing: Vec<String>,
}

pub(crate) struct Browser {
    program: PathBuf,
}

impl Browser {
    /// The one that is installed.
    pub(crate) fn find() -> Self {
        let program = BROWSERS.iter().find_map(|name| which::which(name).ok());
        let program = program.expect("there is a browser: `make report-screenshot` installs one");
        Self { program }
    }

    async fn run(&self, arguments: &[String], page: &Path) -> Output {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new(&self.program)
            .args(["--headless", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .args(["--disable-sync", "--disable-dev-shm-usage", "--enable-logging=stderr"])
            // A page and what it frames are of one origin, so that it can be measured.
            .args(["--allow-file-access-from-files", "--virtual-time-budget=20000"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .deadline(DEADLINE);
        if nix::unistd::geteuid().is_root() {
            command = command.arg("--no-sandbox");
        }
        let command = command.args(arguments).arg(format!("file://{}", page.display()));
        command.run(&Progress::silent().unlisted()).await.unwrap()
    }

    /// The page by itself.
    pub(crate) async fn load(&self, page: &Path) -> Loaded {
        let output = self.run(&["--dump-dom".into()], page).await;
        let said = output.stderr.lines().filter(|line| line.contains(":CONSOLE"));
        Loaded { console: said.map(str::to_owned).collect(), document: output.stdout }
    }

    /// The page in a window of that width.
    pub(crate) async fn look(&self, page: &Path, view: View) -> Seen {
        let arguments = [window(view), scheme(view), "--dump-dom".into()];
        let output = self.run(&arguments, &frame(page, view)).await;
        let html = scraper::Html::parse_document(&output.stdout);
        let seen = scraper::Selector::parse("#seen").unwrap();
        let seen: String = html.select(&seen).next().unwrap().text().collect();
        assert!(!seen.is_empty(), "the page was not measured: {}", output.stderr);
        serde_json::from_str(&seen).unwrap()
    }

    /// A picture of the page.
    pub(crate) async fn photograph(&self, page: &Path, view: View, file: &Path) {
        let screenshot = format!("--screenshot={}", file.display());
        self.run(&[window(view), scheme(view), screenshot], &frame(page, view)).await;
    }
}

fn window(view: View) -> String {
    format!("--window-size={},{}", view.width.max(NARROWEST), view.height)
}

fn scheme(view: View) -> String {
    let number = match view.scheme {
        Scheme::Dark => 0,
        Scheme::Light => 1,
    };
    format!("--blink-settings=preferredColorScheme={number}")
}

/// A page beside it that frames it and writes down what it is like.
fn frame(page: &Path, view: View) -> PathBuf {
    let name = page.file_name().unwrap().to_str().unwrap();
    let text = include_str!("frame.html")
        .replace("PAGE", name)
        .replace("WIDTH", &view.width.to_string())
        .replace("HEIGHT", &view.height.to_string())
        .replace("UNFOLDED", &view.unfolded.to_string());
    let unfolded = if view.unfolded { "-unfolded" } else { "" };
    let file = format!("frame-{}-{}{unfolded}-{name}", view.width, view.scheme.as_str());
    let path = page.with_file_name(file);
    std::fs::write(&path, text).unwrap();
    path
}
