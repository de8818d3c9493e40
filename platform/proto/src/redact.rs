//! `Debug` for the messages that carry secrets, so that no log line can ever show one.

use std::fmt;

use crate::v1::{Hello, JobSpec, RegisterRequest, RegisterResponse};

impl fmt::Debug for RegisterRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterRequest")
            .field("worker_id", &self.worker_id)
            .field("protocol_version", &self.protocol_version)
            .field("pod_uid", &self.pod_uid)
            .field("agent_version", &self.agent_version)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RegisterResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterResponse").field("lease", &self.lease).finish_non_exhaustive()
    }
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("worker_id", &self.worker_id)
            .field("pod_uid", &self.pod_uid)
            .field("protocol_version", &self.protocol_version)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for JobSpec {
    /// The values of variables, the arguments and the script may all hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSpec")
            .field("name", &self.name)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("resources", &self.resources)
            .field("timeouts", &self.timeouts)
            .field("image", &self.image)
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_prints_its_secret() {
        let secret = "s3cret";
        let register = RegisterRequest { otp: secret.into(), ..Default::default() };
        let registered = RegisterResponse { session_token: secret.into(), ..Default::default() };
        let hello = Hello { session_token: secret.into(), ..Default::default() };
        let mut spec = JobSpec::default();
        spec.env.insert("TOKEN".into(), secret.into());
        let printed = format!("{register:?}{registered:?}{hello:?}{spec:?}");
        assert!(!printed.contains(secret), "{printed}");
    }
}
