//! Who may do what: rules as in a ClusterRole, so that the shipped manifests are held to what the agent really asks.

use serde::Deserialize;
use serde_json::Value;

use super::resource::Resource;

/// The rules in force; what no rule allows is 403.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Policy {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    resource_names: Vec<String>,
    verbs: Vec<String>,
}

impl Policy {
    /// Gathers the rules of every ClusterRole and Role in a YAML file of several documents.
    ///
    /// # Errors
    /// YAML or rules that cannot be read.
    pub fn from_yaml(text: &str) -> anyhow::Result<Self> {
        let mut rules = Vec::new();
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            let value = Value::deserialize(document)?;
            if matches!(value["kind"].as_str(), Some("ClusterRole" | "Role")) {
                rules.extend(serde_json::from_value::<Self>(value)?.rules);
            }
        }
        Ok(Self { rules })
    }

    /// One rule more.
    #[must_use]
    pub fn allow(mut self, group: &str, resources: &[&str], verbs: &[&str]) -> Self {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        self.rules.push(Rule {
            api_groups: owned(&[group]),
            resources: owned(resources),
            resource_names: Vec::new(),
            verbs: owned(verbs),
        });
        self
    }

    pub(crate) fn allows(&self, verb: &str, resource: &Resource, name: Option<&str>) -> bool {
        let has = |list: &[String], what: &str| list.iter().any(|l| l == what || l == "*");
        self.rules.iter().any(|rule| {
            has(&rule.verbs, verb)
                && has(&rule.api_groups, resource.group)
                && has(&rule.resources, resource.plural)
                && (rule.resource_names.is_empty()
                    || name.is_some_and(|n| rule.resource_names.iter().any(|r| r == n)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_role_is_read_and_enforced() {
        let policy = Policy::from_yaml(
            "kind: ServiceAccount\n---\nkind: ClusterRole\nrules:\n- apiGroups: ['']\n  resources: [services]\n  verbs: [list, watch]\n\
             - apiGroups: ['']\n  resources: [configmaps]\n  resourceNames: [a]\n  verbs: [get]\n",
        )
        .unwrap();
        let services = Resource::named("services");
        assert!(policy.allows("watch", services, None));
        assert!(!policy.allows("get", services, None));
        assert!(!policy.allows("list", Resource::named("endpointslices"), None));
        assert!(policy.allows("get", Resource::named("configmaps"), Some("a")));
        assert!(!policy.allows("get", Resource::named("configmaps"), Some("b")));
    }
}
