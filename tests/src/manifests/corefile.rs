//! Corefiles of the manifests on a machine that is no node: the same text at other addresses and ports.

/// Replaces what only a node has by the words that [`crate::process::Setup`] fills in; everything else stays as written.
#[must_use]
pub fn on_loopback(corefile: &str) -> String {
    let mut text = String::new();
    for line in corefile.lines() {
        let indent: String = line.chars().take_while(|c| *c == ' ').collect();
        let words: Vec<&str> = line.split_whitespace().collect();
        let line = match words.as_slice() {
            ["bind", ..] => format!("{indent}bind 127.0.0.1"),
            ["health", _, rest @ ..] => {
                format!("{indent}health 127.0.0.1:@health@ {}", rest.join(" "))
            }
            ["ready", ..] => format!("{indent}ready 127.0.0.1:@ready@"),
            ["prometheus", ..] => format!("{indent}prometheus 127.0.0.1:@metrics@"),
            ["snapshot", ..] => format!("{indent}snapshot @folder@/state"),
            ["lameduck", ..] => format!("{indent}lameduck 1ms"),
            _ => line.replace(".:53 {", ".:@dns@ {"),
        };
        text.push_str(&line);
        text.push('\n');
    }
    text
}
