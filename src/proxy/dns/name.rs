//! Which host names a query may mean: itself, what Kubernetes makes of a short name, and both
//! again without a search domain that the application's resolver has appended (istio-ambient
//! facts §11). Names are in lower case and end without a dot.

/// A host name that a query may mean.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Candidate {
    /// The name of the service, if there is one.
    pub(super) host: String,
    /// How many labels of the query are left where a search domain was taken off.
    pub(super) stripped_to: Option<usize>,
}

/// All of them, each once, in the order in which they are looked for. `namespace` is the client's,
/// `domain` the cluster's.
pub(super) fn candidates(query: &str, namespace: &str, domain: &str) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    if query.is_empty() {
        return found;
    }
    let mut add = |name: &str, stripped_to: Option<usize>| {
        let short = expansions(name, namespace, domain);
        for host in std::iter::once(name.to_owned()).chain(short) {
            if found.iter().all(|there| there.host != host) {
                found.push(Candidate { host, stripped_to });
            }
        }
    };
    add(query, None);
    let services = format!("svc.{domain}");
    for search in [&format!("{namespace}.{services}"), &services, domain] {
        let stripped = query.strip_suffix(search).and_then(|rest| rest.strip_suffix('.'));
        if let Some(stripped) = stripped.filter(|name| !name.is_empty()) {
            add(stripped, Some(labels(stripped)));
        }
    }
    found
}

/// A name, then the same with its first labels replaced by `*`, from most to least specific: all in
/// one text, as a pod may ask for names of many labels, and often.
pub(super) struct Wildcards {
    text: String,
    /// Whether the name itself was not given yet.
    is_new: bool,
    /// Up to where its labels were replaced.
    replaced: usize,
}

impl Wildcards {
    pub(super) fn of(host: &str) -> Self {
        // Of others than ASCII the mesh knows none.
        let replaced = if host.is_ascii() { 0 } else { host.len() };
        Self { text: host.to_owned(), is_new: true, replaced }
    }

    /// The next one.
    pub(super) fn next(&mut self) -> Option<&str> {
        if std::mem::take(&mut self.is_new) {
            return Some(&self.text);
        }
        let dot = self.replaced + self.text[self.replaced..].find('.')?;
        self.replaced = dot + 1;
        let star = dot.checked_sub(1)?;
        self.text.replace_range(star..dot, "*");
        Some(&self.text[star..])
    }
}

fn labels(name: &str) -> usize {
    name.split('.').count()
}

/// The full names that Kubernetes gives to services under a short one.
fn expansions(name: &str, namespace: &str, domain: &str) -> Vec<String> {
    let under_svc = format!("{name}.{domain}");
    let below_svc = format!("{name}.svc.{domain}");
    let is_svc = name.ends_with(".svc");
    match labels(name) {
        1 => vec![format!("{name}.{namespace}.svc.{domain}")],
        2 => vec![below_svc, format!("{name}.{namespace}.svc.{domain}")],
        3 if is_svc => vec![under_svc, below_svc],
        3 => vec![below_svc],
        4 if is_svc => vec![under_svc],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(query: &str) -> Vec<String> {
        candidates(query, "shop", "cluster.local").into_iter().map(|c| c.host).collect()
    }

    #[test]
    fn short_names_are_completed_as_kubernetes_does() {
        for (query, hosts_of_it) in [
            ("db", &["db", "db.shop.svc.cluster.local"][..]),
            (
                "db.bank",
                &["db.bank", "db.bank.svc.cluster.local", "db.bank.shop.svc.cluster.local"],
            ),
            (
                "db.bank.svc",
                &["db.bank.svc", "db.bank.svc.cluster.local", "db.bank.svc.svc.cluster.local"],
            ),
            ("www.example.com", &["www.example.com", "www.example.com.svc.cluster.local"]),
            ("pod-0.db.bank.svc", &["pod-0.db.bank.svc", "pod-0.db.bank.svc.cluster.local"]),
            ("a.b.c.d", &["a.b.c.d"]),
            ("a.b.c.d.e", &["a.b.c.d.e"]),
        ] {
            assert_eq!(hosts(query), hosts_of_it, "{query}");
        }
    }

    #[test]
    fn a_search_domain_is_taken_off_and_what_is_left_is_known() {
        let all = candidates("www.example.com.shop.svc.cluster.local", "shop", "cluster.local");
        let found = all.iter().find(|c| c.host == "www.example.com").unwrap();
        assert_eq!(found.stripped_to, Some(3));
        assert_eq!(all[0].stripped_to, None);
        let all = candidates("db.shop.svc.cluster.local", "shop", "cluster.local");
        assert_eq!((&*all[0].host, all[0].stripped_to), ("db.shop.svc.cluster.local", None));
        let elsewhere =
            candidates("www.example.com.bank.svc.cluster.local", "shop", "cluster.local");
        assert!(elsewhere.iter().all(|c| c.host != "www.example.com"));
        assert!(elsewhere.iter().any(|c| c.host == "www.example.com.bank"));
        assert_eq!(hosts("shop.svc.cluster.local")[0], "shop.svc.cluster.local");
        assert!(hosts("cluster.local").iter().all(|host| !host.is_empty()));
    }

    #[test]
    fn the_most_specific_wildcard_comes_first() {
        let all = |host: &str| {
            let mut wildcards = Wildcards::of(host);
            let mut all = Vec::new();
            while let Some(host) = wildcards.next() {
                all.push(host.to_owned());
            }
            all
        };
        assert_eq!(
            all("a.bc.example.com"),
            ["a.bc.example.com", "*.bc.example.com", "*.example.com", "*.com"]
        );
        for alone in ["localhost", "", ".", "bücher.example"] {
            assert_eq!(all(alone)[0], alone);
            assert!(all(alone).len() <= 2, "{alone}");
        }
        assert_eq!(all(&["a"; 127].join(".")).len(), 127);
    }
}
