//! The page in a real browser: what it draws, on a wide and on a narrow screen, by keyboard, and without a word in the console.
//!
//! The lane `page` of `scripts/test` runs it and keeps the screenshots.

#[path = "page/browser.rs"]
mod browser;

use std::path::PathBuf;
use std::time::Duration;

use browser::Browser;
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use tests::client::Client;
use tests::cluster::{Asker, Cluster};
use tests::poll;
use tests::process::Nodens;

const SOON: Duration = Duration::from_secs(30);

fn screenshots() -> PathBuf {
    let folder = std::env::var_os("NODENS_SCREENSHOTS").map(PathBuf::from);
    folder.unwrap_or_else(|| std::env::temp_dir().join("nodens-page"))
}

/// Whether there is a browser; with CI=true there has to be one.
fn program() -> Option<&'static str> {
    let found = browser::program();
    assert!(
        found.is_some() || std::env::var("CI").as_deref() != Ok("true"),
        "no chromium (Debian: chromium)"
    );
    if found.is_none() {
        eprintln!("\n*** SKIPPED: no browser (Debian: chromium) ***");
    }
    found
}

/// Samples that were taken while the server was asked.
fn points(nodens: &Nodens) -> usize {
    let reply = nodens.get(nodens.ports().metrics, "/history.json").unwrap();
    let history: Value = serde_json::from_str(&reply.body).unwrap_or_default();
    history["age_seconds"].as_array().map_or(0, Vec::len)
}

#[test]
fn the_page_shows_the_state_and_draws_plots() {
    let Some(program) = program() else { return };
    let cluster = Cluster::default();
    let cached = |text: &str| text.replace("    forward .", "    cache\n    forward .");
    let nodens = cluster.setup("").corefile(cached).start();
    let asker = Asker::start(nodens.dns(), cluster.known(), 400);
    let client = Client::new(nodens.dns());
    // Names of elsewhere, some of which do not exist.
    let wanted =
        std::env::var("NODENS_PAGE_POINTS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let mut number = 0;
    poll::wait_for("points to draw", SOON + Duration::from_secs(6 * wanted as u64), || {
        for _ in 0..10 {
            number += 1;
            // Each name comes twice: once from the upstream, once from the cache.
            let _ = client.ask(&format!("n{}.example.org.", number / 2), RecordType::A);
        }
        points(&nodens) >= wanted
    });

    let mut browser = Browser::start(program);
    let url = format!("http://127.0.0.1:{}/", nodens.ports().metrics);
    browser.screen(1280, 900, "light");
    browser.call("Page.navigate", json!({ "url": url }));
    browser.wait_for("document.querySelectorAll('figure > svg path[d*=L]').length > 5");
    let state = browser.value("document.getElementById('verdict').textContent");
    assert!(state.as_str().unwrap().starts_with("OK"), "{state}");
    let about = browser.value("document.getElementById('about').textContent");
    assert!(about.as_str().unwrap().contains(env!("CARGO_PKG_VERSION")), "{about}");
    // Every plot says in words what its lines say, for those who do not see them.
    let legends = browser
        .value("[...document.querySelectorAll('figure')].map((one) => one.textContent).join('; ')");
    let legends = legends.as_str().unwrap();
    for word in ["Answers by source", "store ", "cache ", "/s", "NXDOMAIN", "p99", "\u{b5}s", "MiB"]
    {
        assert!(legends.contains(word), "{word}: {legends}");
    }
    let titles = browser
        .value("[...document.querySelectorAll('h2')].map((one) => one.textContent).join('; ')");
    for word in ["State", "Upstreams", "Cluster objects", "Zones", "Everything"] {
        assert!(titles.as_str().unwrap().contains(word), "{word}: {titles}");
    }
    browser.screenshot(&screenshots().join("wide-light.png"));

    // By keyboard: each plot can be reached, and read moment by moment.
    browser.value("document.querySelector('figure').focus()");
    browser.press("ArrowLeft");
    browser.press("ArrowLeft");
    browser.wait_for("/ ago$/.test(document.querySelector('figcaption').textContent)");
    browser.press("Tab");
    browser.wait_for("document.activeElement === document.querySelectorAll('figure')[1]");
    // Things that are worked have names, and the headings are in order.
    let nameless = browser.value(
        "[...document.querySelectorAll('a, summary, table, section')].filter((one) => \
         !one.textContent.trim() && !one.getAttribute('aria-label') && !one.getAttribute('aria-labelledby')).length",
    );
    assert_eq!(nameless, 0);

    // As on a phone: nothing is wider than the screen.
    for (width, scheme) in [(390, "dark"), (320, "light")] {
        browser.screen(width, 844, scheme);
        browser.wait_for(&format!(
            "innerWidth === {width} && document.documentElement.scrollWidth <= {width}"
        ));
        let dark = browser.value("matchMedia('(prefers-color-scheme: dark)').matches");
        assert_eq!(dark, scheme == "dark");
        // Drawn again for the new width.
        browser.wait_for("[...document.querySelectorAll('#plots svg line')].every((one) => one.x2.baseVal.value <= innerWidth)");
        browser.screenshot(&screenshots().join(format!("narrow-{scheme}-{width}.png")));
    }
    contrast(&mut browser);

    // What holds is shown with its cure, and the page says when it gets no more answers.
    browser.value("document.getElementById('everything').open = true");
    browser.wait_for("document.querySelectorAll('#everything dt').length > 20");
    assert_eq!(browser.complaints, [""; 0], "the console is not empty");
    drop(asker.finish());
    drop(nodens);
    browser.wait_for("!document.getElementById('lost').hidden");
    let lost = browser.value("document.getElementById('lost').textContent");
    assert!(lost.as_str().unwrap().starts_with("No answer since "), "{lost}");
    println!("screenshots are in {}", screenshots().display());
}

/// Text has a contrast of 4.5 to its ground in both schemes (WCAG 2.2, 1.4.3), lines of 3 (1.4.11).
fn contrast(browser: &mut Browser) {
    const RATIO: &str = "(() => {
        const style = getComputedStyle(document.documentElement);
        const light = (name) => {
            const hex = style.getPropertyValue(name).trim().replace(/^#(.)(.)(.)$/, '#$1$1$2$2$3$3');
            const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
            const [r, g, b] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const texts = ['--text', '--soft', '--link', '--ok', '--warn', '--fail'].map((name) => [name, 4.5]);
        const lines = [...Array(8).keys()].map((number) => ['--c' + number, 3]);
        return [...texts, ...lines].flatMap(([name, wanted]) => ['--back', '--card']
            .filter((ground) => ratio(light(name), light(ground)) < wanted).map((ground) => name + ' on ' + ground));
    })()";
    for scheme in ["light", "dark"] {
        browser.screen(1280, 900, scheme);
        assert_eq!(browser.value(RATIO), json!([]), "{scheme}");
    }
}

/// A server with something wrong: the state says so first, and what to do.
#[test]
fn the_page_says_what_is_wrong() {
    let Some(program) = program() else { return };
    let cluster = Cluster::default();
    let nodens = cluster.start("");
    nodens.wait_for_metrics("the start", SOON, |metrics| metrics.sum("nodens_ready", &[]) == 1.0);
    // Refused: the running configuration stays, and it is a condition.
    std::fs::write(nodens.folder().join("Corefile"), ".:53 {\n    nonsense\n}\n").unwrap();
    let socket = nodens.folder().join("nodens.sock");
    let (status, ..) = tests::process::run(&["reload", "--socket", socket.to_str().unwrap()]);
    assert!(!status.success());
    let mut browser = Browser::start(program);
    browser.screen(390, 844, "light");
    browser.call(
        "Page.navigate",
        json!({ "url": format!("http://127.0.0.1:{}/", nodens.ports().metrics) }),
    );
    browser.wait_for("/^(WARN|FAIL)/.test(document.getElementById('verdict')?.textContent)");
    let said = browser.value("document.getElementById('conditions').textContent");
    assert!(said.as_str().unwrap().contains("nonsense"), "{said}");
    browser.wait_for("/^(WARN|FAIL) /.test(document.title)");
    browser.screenshot(&screenshots().join("narrow-wrong.png"));
    assert_eq!(browser.complaints, [""; 0], "the console is not empty");
}
