//! A page of the manual as steps: its blocks of commands, each with the place where it is run.

use std::fs;
use std::path::Path;

/// Where a block is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where kubectl works. The test does what these commands do.
    Admin,
    /// A shell of root on the node.
    Node,
    /// A pod on the node; the test runs it in each.
    Pod,
}

/// One block.
#[derive(Debug, Clone)]
pub struct Step {
    /// Where it is run.
    pub place: Place,
    /// The heading above it.
    pub section: String,
    /// The line of the page on which the commands begin.
    pub line: usize,
    /// The commands.
    pub commands: String,
}

/// The steps of a page of `docs/`, in their order.
pub fn steps(name: &str) -> Vec<Step> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let steps = parse(&text);
    assert!(steps.len() > 3, "{name} has only {} steps", steps.len());
    steps
}

fn parse(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let (mut section, mut place) = (String::new(), None);
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let words = line.trim();
        if let Some(heading) = words.strip_prefix('#') {
            section = heading.trim_start_matches('#').trim().to_owned();
        } else if let Some(run) = words.strip_prefix("<!-- run: ") {
            place = Some(match run.trim_end_matches("-->").trim() {
                "admin" => Place::Admin,
                "node" => Place::Node,
                "pod" => Place::Pod,
                other => panic!("line {}: unknown place {other}", number + 1),
            });
        } else if let Some(language) = words.strip_prefix("```") {
            // A block in a list is indented; so is its content.
            let indent = line.len() - line.trim_start().len();
            let mut commands = String::new();
            for (_, line) in lines.by_ref().take_while(|(_, line)| line.trim() != "```") {
                commands += line.get(indent..).unwrap_or("");
                commands.push('\n');
            }
            if let Some(place) = place.take() {
                assert_eq!(language, "sh", "line {}", number + 1);
                steps.push(Step { place, section: section.clone(), line: number + 2, commands });
            }
        }
    }
    steps
}

#[test]
fn blocks_are_found_with_their_places() {
    let text = "# A\n<!-- run: node -->\n```sh\ndig x\n```\n```sh\nnot run\n```\n## B\n\n   <!-- run: pod -->\n   ```sh\n   a\n     b\n   ```\n";
    let steps = parse(text);
    assert_eq!(steps.len(), 2);
    assert_eq!(
        (steps[0].place, steps[0].commands.as_str(), steps[0].line),
        (Place::Node, "dig x\n", 4)
    );
    assert_eq!((steps[1].place, steps[1].section.as_str()), (Place::Pod, "B"));
    assert_eq!(steps[1].commands, "a\n  b\n");
}
