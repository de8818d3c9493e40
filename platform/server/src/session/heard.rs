//! What the mere arrival of an agent's messages says: that it lives, and how its clock goes.

use hodei_proto::moment;
use jiff::{SignedDuration, Timestamp};

/// A clock that is off by this much makes a person who reads output by its times look in the wrong place.
const NOTICEABLE: SignedDuration = SignedDuration::from_secs(5);

/// Counted over one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Messages so far: the lease is renewed while they grow.
    pub(crate) messages: u64,
    /// How far the agent's clock is ahead of this server's; negative where it is behind. What a message
    /// took to come makes a clock look late, so the greatest of all is the nearest.
    pub(crate) clock_offset: Option<SignedDuration>,
}

impl Heard {
    /// A message came at `now`; `sent` is the agent's own time of sending, where it says one.
    pub(crate) fn message(&mut self, sent: Option<prost_types::Timestamp>, now: Timestamp) {
        self.messages += 1;
        // What is no time, or none that jiff knows, says nothing.
        let sent = moment(sent.as_ref());
        self.clock_offset = self.clock_offset.max(sent.map(|sent| sent.duration_since(now)));
    }

    /// The offset, if a person should hear of it.
    pub(crate) fn noticeable(&self) -> Option<SignedDuration> {
        self.clock_offset.filter(|offset| offset.abs() >= NOTICEABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::new(1_000_000 + seconds, 0).unwrap()
    }

    fn sent(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds: 1_000_000 + seconds, nanos: 0 })
    }

    #[test]
    fn the_message_that_took_least_tells_the_clock() {
        let mut heard = Heard::default();
        heard.message(None, at(0));
        assert_eq!((heard.messages, heard.clock_offset), (1, None));
        // Ten seconds behind; the first of them took three seconds to come, the second none.
        for (came, said) in [(13, 0), (20, 10), (32, 20)] {
            heard.message(sent(said), at(came));
        }
        assert_eq!((heard.messages, heard.clock_offset), (4, Some(SignedDuration::from_secs(-10))));
        assert_eq!(heard.noticeable(), heard.clock_offset);
    }

    #[test]
    fn a_clock_that_goes_right_is_not_worth_a_word_and_nonsense_is_no_time() {
        let mut heard = Heard::default();
        for seconds in [i64::MAX, i64::MIN] {
            heard.message(Some(prost_types::Timestamp { seconds, nanos: -5 }), at(0));
        }
        assert_eq!(heard.clock_offset, None);
        heard.message(sent(4), at(0));
        assert_eq!(heard.clock_offset, Some(SignedDuration::from_secs(4)));
        assert_eq!(heard.noticeable(), None);
        heard.message(sent(5), at(0));
        assert!(heard.noticeable().is_some());
    }
}
