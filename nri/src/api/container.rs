//! Reading pods and containers.

use super::{Container, PodSandbox};

impl Container {
    /// The value of an environment variable. As in a process, the first entry of a name counts.
    ///
    /// ```
    /// let container = nri::api::Container { env: vec!["A=1=2".into()], ..Default::default() };
    /// assert_eq!(container.env_value("A"), Some("1=2"));
    /// ```
    pub fn env_value(&self, key: &str) -> Option<&str> {
        self.env
            .iter()
            .find_map(|entry| entry.strip_prefix(key)?.strip_prefix('='))
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

impl PodSandbox {
    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    /// The value of an annotation as NRI scopes them: `KEY/container.NAME`, else `KEY/pod`, else
    /// the bare `KEY`.
    ///
    /// ```
    /// let mut pod = nri::api::PodSandbox::default();
    /// pod.annotations.insert("x.noderesource.dev/pod".into(), "all".into());
    /// pod.annotations.insert("x.noderesource.dev/container.web".into(), "one".into());
    /// assert_eq!(pod.scoped_annotation("x.noderesource.dev", "web"), Some("one"));
    /// assert_eq!(pod.scoped_annotation("x.noderesource.dev", "db"), Some("all"));
    /// ```
    pub fn scoped_annotation(&self, key: &str, container: &str) -> Option<&str> {
        self.annotation(&format!("{key}/container.{container}"))
            .or_else(|| self.annotation(&format!("{key}/pod")))
            .or_else(|| self.annotation(key))
    }

    /// The path of the namespace of type `kind`, for instance `network`.
    pub fn namespace_path(&self, kind: &str) -> Option<&str> {
        let namespaces = &self.linux.as_ref()?.namespaces;
        let namespace = namespaces.iter().find(|namespace| namespace.r#type == kind)?;
        Some(namespace.path.as_str()).filter(|path| !path.is_empty())
    }
}
