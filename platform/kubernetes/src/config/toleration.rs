//! Tolerations, in the API's form and in the short form of `kubectl taint`:
//! `key[=value][:effect[:seconds]]`.

use std::str::FromStr;

use k8s_openapi::api::core::v1::Toleration;
use serde::{Deserialize, Serialize};

/// One tolerated taint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesToleration {
    /// The taint's key; `None` tolerates every key and needs `Exists`.
    #[serde(default)]
    pub key: Option<String>,
    /// How the value is compared.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// The taint's value, for `Equal`.
    #[serde(default)]
    pub value: Option<String>,
    /// The effect tolerated; `None` for all.
    #[serde(default)]
    pub effect: Option<TaintEffect>,
    /// Seconds until a `NoExecute` taint evicts all the same.
    #[serde(default)]
    pub toleration_seconds: Option<i64>,
}

/// How a toleration's value is compared with a taint's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TolerationOperator {
    /// The values are the same.
    #[default]
    Equal,
    /// Any value will do.
    Exists,
}

/// What a taint does to pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaintEffect {
    /// New pods stay away.
    NoSchedule,
    /// New pods stay away if they can.
    PreferNoSchedule,
    /// Running pods are evicted too.
    NoExecute,
}

impl TaintEffect {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

/// A toleration that means nothing to Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToleration {
    /// `Equal` compares with something.
    #[error("a toleration without a key needs the operator Exists")]
    NoKey,
    /// `Exists` has nothing to compare.
    #[error("a toleration with the operator Exists has no value")]
    ValueWithExists,
    /// Only `NoExecute` evicts.
    #[error("toleration_seconds needs the effect NoExecute")]
    SecondsWithoutNoExecute,
    /// The short form is not understood.
    #[error(
        "{0:?} is not a toleration: key[=value][:effect[:seconds]], where effect is NoSchedule, \
         PreferNoSchedule or NoExecute"
    )]
    Grammar(String),
}

impl KubernetesToleration {
    /// A builder for a toleration of `key`.
    #[must_use]
    pub fn builder() -> KubernetesTolerationBuilder {
        KubernetesTolerationBuilder::default()
    }

    /// Checks what Kubernetes would refuse.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn validate(&self) -> Result<(), InvalidToleration> {
        let exists = self.operator == TolerationOperator::Exists;
        if self.key.as_deref().is_none_or(str::is_empty) && !exists {
            return Err(InvalidToleration::NoKey);
        }
        if exists && self.value.is_some() {
            return Err(InvalidToleration::ValueWithExists);
        }
        if self.toleration_seconds.is_some() && self.effect != Some(TaintEffect::NoExecute) {
            return Err(InvalidToleration::SecondsWithoutNoExecute);
        }
        Ok(())
    }

    pub(crate) fn to_api(&self) -> Toleration {
        let operator = match self.operator {
            TolerationOperator::Equal => "Equal",
            TolerationOperator::Exists => "Exists",
        };
        Toleration {
            key: self.key.clone(),
            operator: Some(operator.to_owned()),
            value: self.value.clone(),
            effect: self.effect.map(|effect| effect.as_str().to_owned()),
            toleration_seconds: self.toleration_seconds,
        }
    }
}

impl FromStr for KubernetesToleration {
    type Err = InvalidToleration;

    fn from_str(text: &str) -> Result<Self, InvalidToleration> {
        let grammar = || InvalidToleration::Grammar(text.chars().take(100).collect());
        let mut parts = text.trim().split(':');
        let taint = parts.next().filter(|taint| !taint.is_empty()).ok_or_else(grammar)?;
        let effect = match parts.next() {
            None => None,
            Some("NoSchedule") => Some(TaintEffect::NoSchedule),
            Some("PreferNoSchedule") => Some(TaintEffect::PreferNoSchedule),
            Some("NoExecute") => Some(TaintEffect::NoExecute),
            Some(_) => return Err(grammar()),
        };
        let seconds = parts.next().map(str::parse).transpose().map_err(|_| grammar())?;
        if parts.next().is_some() {
            return Err(grammar());
        }
        let (key, value) = match taint.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (taint, None),
        };
        let operator =
            if value.is_some() { TolerationOperator::Equal } else { TolerationOperator::Exists };
        let toleration = Self {
            key: Some(key.to_owned()),
            operator,
            value,
            effect,
            toleration_seconds: seconds,
        };
        toleration.validate()?;
        Ok(toleration)
    }
}

/// Makes a [`KubernetesToleration`].
#[derive(Debug, Clone, Default)]
pub struct KubernetesTolerationBuilder {
    key: Option<String>,
    value: Option<String>,
    effect: Option<TaintEffect>,
    seconds: Option<i64>,
}

impl KubernetesTolerationBuilder {
    /// The taint's key; without one every taint is tolerated.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The taint's value; without one any value is tolerated.
    #[must_use]
    pub fn value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// The effect; without one all are tolerated.
    #[must_use]
    pub fn effect(mut self, effect: TaintEffect) -> Self {
        self.effect = Some(effect);
        self
    }

    /// Seconds until a `NoExecute` taint evicts all the same.
    #[must_use]
    pub fn seconds(mut self, seconds: i64) -> Self {
        self.seconds = Some(seconds);
        self
    }

    /// The toleration.
    ///
    /// # Errors
    /// What Kubernetes would refuse.
    pub fn build(self) -> Result<KubernetesToleration, InvalidToleration> {
        let operator = match self.value {
            Some(_) => TolerationOperator::Equal,
            None => TolerationOperator::Exists,
        };
        let toleration = KubernetesToleration {
            key: self.key,
            operator,
            value: self.value,
            effect: self.effect,
            toleration_seconds: self.seconds,
        };
        toleration.validate()?;
        Ok(toleration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form() {
        let build = KubernetesToleration::builder;
        for (text, expected) in [
            ("gpu", build().key("gpu").build()),
            ("gpu=a100", build().key("gpu").value("a100").build()),
            (
                "gpu=true:NoSchedule",
                build().key("gpu").value("true").effect(TaintEffect::NoSchedule).build(),
            ),
            (
                "node.kubernetes.io/not-ready:NoExecute:30",
                build()
                    .key("node.kubernetes.io/not-ready")
                    .effect(TaintEffect::NoExecute)
                    .seconds(30)
                    .build(),
            ),
        ] {
            assert_eq!(text.parse::<KubernetesToleration>(), expected, "{text}");
        }
    }

    #[test]
    fn what_kubernetes_would_refuse() {
        for text in ["", "=a", "a:Nope", "a:NoSchedule:5", "a:NoExecute:x", "a:NoExecute:1:2"] {
            assert!(text.parse::<KubernetesToleration>().is_err(), "{text}");
        }
        let no_key = KubernetesToleration::builder().value("x").build();
        assert_eq!(no_key, Err(InvalidToleration::NoKey));
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::prelude::*;

    use super::*;

    /// The short form of one that was read from it.
    fn write(toleration: &KubernetesToleration) -> String {
        let mut text = toleration.key.clone().unwrap_or_default();
        text.extend(toleration.value.iter().map(|value| format!("={value}")));
        text.extend(toleration.effect.map(|effect| format!(":{}", effect.as_str())));
        text.extend(toleration.toleration_seconds.map(|seconds| format!(":{seconds}")));
        text
    }

    proptest! {
        #[test]
        fn a_toleration_is_read_as_it_is_written_or_refused(
            text in prop_oneof![
                any::<String>(),
                "[a-z./=]{0,8}(=[a-z]{0,3})?(:(NoSchedule|NoExecute|PreferNoSchedule|x)?){0,2}(:-?[0-9]{1,20})?",
            ],
        ) {
            match text.parse::<KubernetesToleration>() {
                Ok(toleration) => {
                    prop_assert_eq!(toleration.validate(), Ok(()));
                    prop_assert_eq!(&write(&toleration).parse(), &Ok(toleration.clone()));
                    let api = toleration.to_api();
                    prop_assert_eq!(api.key, toleration.key);
                }
                Err(error) => prop_assert!(error.to_string().contains("toleration"), "{error}"),
            }
        }
    }
}
