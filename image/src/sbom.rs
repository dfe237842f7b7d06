//! The bill of materials: CycloneDX 1.5 as JSON, every crate of Cargo.lock and what else was linked.

use serde_json::{Value, json};

use crate::crates::{Crate, Id, PACKAGE, Part};
use crate::digest::canonical;
use crate::time::rfc3339;

/// Something that is linked and that no crate brings: the C library, the compiler's own libraries.
#[derive(Debug, Clone)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence as an SPDX expression.
    pub licence: String,
    /// The texts of its licence.
    pub texts: Vec<String>,
}

/// Writes the bill. A crate's `scope` is `required` if it is in the binary, else `excluded`: build scripts and macros, tests,
/// other platforms. Those are named so that the bill can be held against Cargo.lock.
///
/// # Errors
/// None in practice; JSON that cannot be written.
pub fn write(crates: &[Crate], components: &[Component], epoch: u64) -> anyhow::Result<Vec<u8>> {
    let product = crates.iter().find(|found| found.id.0 == PACKAGE);
    let version = product.map_or("", |found| found.id.1.as_str());
    let mut listed: Vec<Value> =
        crates.iter().filter(|found| found.id.0 != PACKAGE).map(component).collect();
    listed.extend(components.iter().map(|other| {
        json!({
            "type": "library", "bom-ref": format!("{}@{}", other.name, other.version),
            "name": other.name, "version": other.version, "scope": "required",
            "licenses": [{"expression": other.licence}],
        })
    }));
    let linked: Vec<&Crate> = crates.iter().filter(|found| found.part == Part::Linked).collect();
    let is_linked = |id: &&Id| linked.iter().any(|found| found.id == **id);
    let dependencies: Vec<Value> = linked
        .iter()
        .map(|found| {
            let on: Vec<String> = found.dependencies.iter().filter(is_linked).map(purl).collect();
            json!({"ref": purl(&found.id), "dependsOn": on})
        })
        .collect();
    canonical(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {
            "timestamp": rfc3339(epoch),
            "component": {
                "type": "application", "bom-ref": purl(&(PACKAGE.into(), version.into())),
                "name": PACKAGE, "version": version, "licenses": [{"expression": "Apache-2.0"}],
            },
        },
        "components": listed,
        "dependencies": dependencies,
    }))
}

fn component(found: &Crate) -> Value {
    let scope = if found.part == Part::Linked { "required" } else { "excluded" };
    let mut out = json!({
        "type": "library", "bom-ref": purl(&found.id), "name": found.id.0, "version": found.id.1,
        "purl": purl(&found.id), "scope": scope,
    });
    if let Some(checksum) = &found.checksum {
        out["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    if let Some(licence) = &found.licence {
        // Old crates write "MIT/Apache-2.0" for what SPDX writes with OR.
        out["licenses"] = json!([{"expression": licence.replace('/', " OR ")}]);
    }
    out
}

fn purl((name, version): &Id) -> String {
    format!("pkg:cargo/{name}@{version}")
}
