//! What went through the proxy: each request and its answer, the newest kept.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::Serialize;

use super::ApiCall;

/// Requests that are remembered; older ones are only counted.
const REMEMBERED: usize = 20_000;

/// A request that went through the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProxiedRequest {
    /// When it arrived.
    pub at: Timestamp,
    /// The HTTP method.
    pub method: String,
    /// What it asked for.
    #[serde(flatten)]
    pub call: ApiCall,
    /// The HTTP status that the client was sent; `None` if it was sent none.
    pub code: Option<u16>,
    /// What was done to it, if something was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// The newest requests.
#[derive(Debug, Default)]
pub(super) struct Record {
    requests: VecDeque<ProxiedRequest>,
    forgotten: usize,
}

impl Record {
    /// Notes an arrival; the answer is a number by which to say how it ended.
    pub(super) fn arrived(&mut self, method: &str, call: ApiCall, fault: Option<String>) -> usize {
        if self.requests.len() == REMEMBERED {
            self.requests.pop_front();
            self.forgotten += 1;
        }
        let (at, method) = (Timestamp::now(), method.to_owned());
        self.requests.push_back(ProxiedRequest { at, method, call, code: None, fault });
        self.forgotten + self.requests.len() - 1
    }

    pub(super) fn answered(&mut self, number: usize, code: u16) {
        let index = number.checked_sub(self.forgotten);
        if let Some(request) = index.and_then(|index| self.requests.get_mut(index)) {
            request.code = Some(code);
        }
    }

    pub(super) fn all(&self) -> Vec<ProxiedRequest> {
        self.requests.iter().cloned().collect()
    }

    pub(super) fn forgotten(&self) -> usize {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_answers_find_their_requests() {
        let mut record = Record::default();
        let arrive = |record: &mut Record| record.arrived("GET", ApiCall::default(), None);
        let first = arrive(&mut record);
        record.answered(first, 200);
        assert_eq!(record.all()[0].code, Some(200));
        for _ in 0..REMEMBERED {
            arrive(&mut record);
        }
        let last = arrive(&mut record);
        record.answered(first, 500);
        record.answered(last, 404);
        let all = record.all();
        assert_eq!((all.len(), record.forgotten()), (REMEMBERED, 2));
        assert_eq!(all.iter().filter_map(|request| request.code).collect::<Vec<_>>(), [404]);
        assert_eq!(all.last().unwrap().code, Some(404));
    }
}
