//! A file out of its JSON: exact for every word, which text is not (see [`super::render`]).

use std::path::Path;

use serde_json::Value;

use super::{Directive, File, Location, ServerBlock, Token, limits};

impl File {
    /// The file whose [`File::to_json`] this is; `None` if it is that of none. All words of a line are at its beginning.
    pub fn from_json(value: &Value) -> Option<Self> {
        let blocks = value.get("serverBlocks")?.as_array()?;
        Some(Self { blocks: blocks.iter().map(ServerBlock::from_json).collect::<Option<_>>()? })
    }
}

impl ServerBlock {
    fn from_json(value: &Value) -> Option<Self> {
        let at = location(value)?;
        let directives = value.get("directives")?.as_array()?;
        Some(Self { keys: words(value.get("zones")?, &at)?, directives: lines(directives, 0)?, at })
    }
}

fn lines(values: &[Value], depth: usize) -> Option<Vec<Directive>> {
    if depth > limits::NESTING {
        return None;
    }
    values.iter().map(|value| line(value, depth)).collect()
}

fn line(value: &Value, depth: usize) -> Option<Directive> {
    let at = location(value)?;
    let block = match value.get("block") {
        Some(block) => Some(lines(block.as_array()?, depth + 1)?),
        None => None,
    };
    let args = words(value.get("args")?, &at)?;
    Some(Directive { name: Token::new(value.get("name")?.as_str()?, at), args, block })
}

fn words(value: &Value, at: &Location) -> Option<Vec<Token>> {
    let word = |value: &Value| Some(Token::new(value.as_str()?, at.clone()));
    value.as_array()?.iter().map(word).collect()
}

fn location(value: &Value) -> Option<Location> {
    let (file, line) = value.get("at")?.as_str()?.rsplit_once(':')?;
    Some(Location::new(Path::new(file), line.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::corefile::parse;

    /// There and back through text, as it is kept.
    fn again(file: &File) -> File {
        File::from_json(&serde_json::from_str(&file.to_json().to_string()).unwrap()).unwrap()
    }

    #[test]
    fn a_file_comes_back_with_its_words_and_lines() {
        let text = "a.org:53 {\n    log . \"{remote} \\\"x\\\" {$EMPTY}\"\n    cache {\n        denial 5\n    }\n    errors {\n    }\n}\nb {\n}\n";
        let (file, _) = parse("/etc/Core:file", text, &|_| Some("\\\" } # \u{feff}".to_owned()));
        let back = again(&file);
        assert_eq!(back.to_string(), file.to_string());
        assert_eq!(back.to_json(), file.to_json());
        assert_eq!(back, file, "all words of these lines are on one line");
        assert_eq!(back.blocks[0].directives[1].options()[0].at().to_string(), "/etc/Core:file:4");
    }

    #[test]
    fn what_is_no_file_is_none() {
        let mut deep = json!({ "at": "x:1", "name": "a", "args": [], "block": [] });
        for _ in 0..40 {
            deep = json!({ "at": "x:1", "name": "a", "args": [], "block": [deep] });
        }
        for bad in [
            json!(null),
            json!({ "serverBlocks": 1 }),
            json!({ "serverBlocks": [{ "at": "x", "zones": [], "directives": [] }] }),
            json!({ "serverBlocks": [{ "at": "x:1", "zones": [7], "directives": [] }] }),
            json!({ "serverBlocks": [{ "at": "x:1", "zones": [], "directives": [deep] }] }),
        ] {
            assert_eq!(File::from_json(&bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_text_comes_back_as_it_was_read(text in "([a-z.]{1,4}|[ \n{}\"\\\\#,]|\\{\\$[A-Z]\\}|é){0,60}") {
            let (file, _) = parse("Corefile", &text, &|name| Some(format!("\\\"{{%{name} }}\\")));
            let back = again(&file);
            prop_assert_eq!(back.to_json(), file.to_json());
            prop_assert_eq!(back.to_string(), file.to_string());
        }
    }
}
