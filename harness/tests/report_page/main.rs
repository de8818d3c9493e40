//! The page of a report in a real browser: nothing of it is wider than the window, its script runs and
//! its policy refuses nothing, in the light and in the dark, and something is to be seen. Needs
//! `chromium`; `make report-screenshot` brings it. The pictures stay, for a person to look at.

#[cfg(test)]
mod browser;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod picture;

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use hodei_harness::report::{Report, to_html};
    use scraper::{Html, Selector};

    use crate::browser::{Browser, Scheme, View};
    use crate::picture::Picture;
    use crate::{fixtures, picture};

    /// The widths of a desk and of a telephone, in pixels.
    const WIDTHS: [u32; 2] = [1280, 400];
    /// The tallest picture, in pixels.
    const TALLEST: u32 = 8000;

    fn write(name: &str, report: &Report, run: Option<&Path>) -> PathBuf {
        let path = fixtures::directory().join(format!("{name}.html"));
        std::fs::write(&path, to_html(report, run).unwrap()).unwrap();
        path
    }

    /// The page by itself: its own policy, its own script, its own console.
    async fn assert_it_works(browser: &Browser, page: &Path) {
        let loaded = browser.load(page).await;
        assert_eq!(loaded.console, Vec::<String>::new(), "{}", page.display());
        let html = Html::parse_document(&loaded.document);
        let form = html.select(&Selector::parse("form#filter").unwrap()).next().unwrap();
        assert!(form.attr("hidden").is_none(), "the filter's script did not run");
        let output = form.select(&Selector::parse("output").unwrap()).next().unwrap();
        let said: String = output.text().collect();
        assert!(said.ends_with(" shown"), "the filter's script said {said:?}");
    }

    /// The page as someone looks at it; what is folded is measured unfolded, too.
    async fn assert_it_fits_and_shows(browser: &Browser, name: &str, page: &Path, view: View) {
        let seen = browser.look(page, view).await;
        let at = format!("{name} at {} px, {}", view.width, view.scheme.as_str());
        assert!(seen.filter_is_shown, "{at}: the filter is hidden");
        let counted = format!("{0} of {0} shown", seen.rows);
        assert_eq!(seen.shown, counted, "{at}: the filter did not count");
        assert!(seen.page_width <= seen.window_width, "{at}: wider than its window: {seen:?}");
        assert_eq!(seen.overflowing, Vec::<String>::new(), "{at}");
        let file = format!("{name}-{}-{}.png", view.width, view.scheme.as_str());
        let file = page.with_file_name(file);
        let height = seen.page_height.clamp(600, TALLEST);
        browser.photograph(page, View { height, ..view }, &file).await;
        let picture = Picture::read(&file);
        assert!(picture.width >= view.width && picture.height >= height, "{at}: {picture:?}");
        assert!(picture.colours > picture::FEWEST, "{at}: {picture:?}");
        assert_eq!(picture.is_dark, view.scheme == Scheme::Dark, "{at}: {picture:?}");
    }

    async fn assert_readable(name: &str, report: &Report, run: Option<&Path>) {
        let browser = Browser::find();
        let page = write(name, report, run);
        assert_it_works(&browser, &page).await;
        for width in WIDTHS {
            for scheme in [Scheme::Light, Scheme::Dark] {
                let view = View { width, height: 900, scheme, unfolded: false };
                assert_it_fits_and_shows(&browser, name, &page, view).await;
            }
            let unfolded = View { width, height: 900, scheme: Scheme::Light, unfolded: true };
            assert_it_fits_and_shows(&browser, &format!("{name}-unfolded"), &page, unfolded).await;
        }
    }

    #[tokio::test]
    #[ignore = "needs a browser: make report-screenshot"]
    async fn a_conformant_run_is_readable() {
        assert_readable("conformant", &fixtures::conformant(), None).await;
    }

    #[tokio::test]
    #[ignore = "needs a browser: make report-screenshot"]
    async fn a_run_that_failed_with_long_messages_is_readable() {
        let run = fixtures::evidence();
        assert_readable("failing", &fixtures::failing(), Some(run.path())).await;
    }

    #[tokio::test]
    #[ignore = "needs a browser: make report-screenshot"]
    async fn a_run_of_many_rounds_is_readable() {
        assert_readable("rounds", &fixtures::rounds(), None).await;
    }

    /// What the tests above look for can be found.
    #[tokio::test]
    #[ignore = "needs a browser: make report-screenshot"]
    async fn a_script_of_another_is_refused_and_what_does_not_fit_is_named() {
        let browser = Browser::find();
        let page = to_html(&fixtures::conformant(), None).unwrap();
        let wide = "<p id=\"wide\" style=\"width:3000px\">wide</p></main>";
        let page = page.replace("'use strict';", "'use  strict';").replace("</main>", wide);
        let path = fixtures::directory().join("damaged.html");
        std::fs::write(&path, page).unwrap();
        let console = browser.load(&path).await.console.join("\n");
        assert!(console.contains("Content Security Policy"), "{console}");
        let view = View { width: 1280, height: 900, scheme: Scheme::Light, unfolded: false };
        let seen = browser.look(&path, view).await;
        assert!(!seen.filter_is_shown && seen.page_width > seen.window_width, "{seen:?}");
        assert_eq!(seen.overflowing, ["p#wide"]);
    }
}
