//! What whoever asks may do: of the provider's rules, and of what this doctor looks at. Each verb is
//! asked for by itself, so that what is missing is named exactly.

use std::collections::BTreeMap;

use futures::StreamExt;
use hodei_kubernetes::{REQUIRED_RULES, Rule, Scope};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};

use super::ask::{Refused, ask};
use crate::doctor::{Check, Status};

/// Reviews at a time.
const AT_ONCE: usize = 8;

/// What this doctor does, where it may.
const OWN: &[Rule] = &[
    Rule { scope: Scope::Cluster, group: "", resource: "namespaces", verbs: &["get"] },
    Rule { scope: Scope::Cluster, group: "", resource: "nodes", verbs: &["list"] },
    Rule {
        scope: Scope::Namespace,
        group: "",
        resource: "pods",
        verbs: &["create", "delete", "get"],
    },
    Rule { scope: Scope::Namespace, group: "", resource: "pods/log", verbs: &["get"] },
    Rule { scope: Scope::Namespace, group: "", resource: "events", verbs: &["list"] },
    Rule { scope: Scope::Namespace, group: "", resource: "limitranges", verbs: &["list"] },
    Rule { scope: Scope::Namespace, group: "", resource: "resourcequotas", verbs: &["list"] },
];

/// A verb and what it is for: `("create", "pods")`.
type Right = (&'static str, &'static str);

/// Who asks, and what they may do.
#[derive(Debug)]
pub(super) struct Rights {
    /// As the API server knows them; empty if it does not say.
    pub(super) user: String,
    answers: BTreeMap<Right, Result<bool, Refused>>,
}

impl Rights {
    /// Asks for each verb.
    pub(super) async fn review(client: &Client, namespace: &str) -> Self {
        let mut wanted: BTreeMap<Right, &Rule> = BTreeMap::new();
        for rule in REQUIRED_RULES.iter().chain(OWN) {
            wanted.extend(rule.verbs.iter().map(|verb| ((*verb, rule.resource), rule)));
        }
        let reviews = wanted.into_iter().map(|(right, rule)| async move {
            (right, may(client, namespace, right.0, rule).await)
        });
        let reviews = futures::stream::iter(reviews).buffer_unordered(AT_ONCE);
        let (answers, user) = tokio::join!(reviews.collect(), who(client));
        Self { user: user.unwrap_or_default(), answers }
    }

    /// Whether nothing is known that forbids it.
    pub(super) fn may(&self, verb: &'static str, resource: &'static str) -> bool {
        !matches!(self.answers.get(&(verb, resource)), Some(Ok(false)))
    }

    fn denied<'a>(&self, rules: impl Iterator<Item = &'a Rule>) -> Vec<String> {
        let all = rules.flat_map(|rule| rule.verbs.iter().map(move |verb| (*verb, rule)));
        let denied = all.filter(|(verb, rule)| !self.may(verb, rule.resource));
        denied.map(|(verb, rule)| format!("{verb} {}", rule.resource)).collect()
    }

    fn unanswered(&self) -> Option<&Refused> {
        self.answers.values().find_map(|answer| answer.as_ref().err())
    }

    fn of_user(&self) -> String {
        if self.user.is_empty() { String::new() } else { format!(" to {}", self.user) }
    }

    /// The provider's rights, and the doctor's.
    pub(super) fn checks(&self, namespace: &str) -> [Check; 2] {
        [self.provider(namespace), self.doctor()]
    }

    fn provider(&self, namespace: &str) -> Check {
        let needed = format!("the verbs of deploy/kubernetes/rbac.yaml in {namespace}");
        let check = |status, found: String| Check::new("rights-provider", &needed, status, found);
        if let Some(refused) = self.unanswered() {
            return check(Status::Fail, format!("not known: {refused}"))
                .fix("everybody may create selfsubjectaccessreviews by default: grant it again");
        }
        let required = self.denied(REQUIRED_RULES.iter().filter(|rule| !rule.is_optional()));
        let optional = self.denied(REQUIRED_RULES.iter().filter(|rule| rule.is_optional()));
        let count: usize = REQUIRED_RULES.iter().map(|rule| rule.verbs.len()).sum();
        let to = self.of_user();
        match (required.as_slice(), optional.as_slice()) {
            ([], []) => check(Status::Ok, format!("all {count} granted{to}")),
            ([], some) => check(Status::Warn, format!("not granted{to}: {}", some.join(", ")))
                .fix("workers run without these; the provider knows less of nodes and of failures"),
            (some, more) => {
                let all: Vec<_> = some.iter().chain(more).map(String::as_str).collect();
                check(Status::Fail, format!("not granted{to}: {}", all.join(", ")))
                    .fix("kubectl apply -f deploy/kubernetes/rbac.yaml, with the namespace in it")
            }
        }
    }

    fn doctor(&self) -> Check {
        let needed = "what this looks at";
        match self.denied(OWN.iter()).as_slice() {
            [] => Check::new("rights-doctor", needed, Status::Ok, "all granted"),
            some => {
                let found = format!("not granted{}: {}", self.of_user(), some.join(", "));
                Check::new("rights-doctor", needed, Status::Warn, found)
                    .fix("what needs them is not looked at; ask as somebody who may")
            }
        }
    }
}

async fn who(client: &Client) -> Option<String> {
    let reviews = Api::<SelfSubjectReview>::all(client.clone());
    let answer = ask(reviews.create(&PostParams::default(), &SelfSubjectReview::default())).await;
    answer.ok()?.status?.user_info?.username
}

async fn may(client: &Client, namespace: &str, verb: &str, rule: &Rule) -> Result<bool, Refused> {
    let (resource, subresource) = match rule.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (rule.resource, None),
    };
    // Of the whole cluster only this one namespace is read, which a Role in it may grant.
    let is_own = resource == "namespaces";
    let attributes = ResourceAttributes {
        group: Some(rule.group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        verb: Some(verb.to_owned()),
        name: is_own.then(|| namespace.to_owned()),
        namespace: (is_own || rule.scope == Scope::Namespace).then(|| namespace.to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews = Api::<SelfSubjectAccessReview>::all(client.clone());
    let answer = ask(reviews.create(&PostParams::default(), &review)).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
