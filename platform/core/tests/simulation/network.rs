//! Streams: each keeps its order, as HTTP/2 does; two streams of one agent keep none between them. A
//! stream that is cut loses what is on its way, and each side notices in its own time.

use hodei_core::session::{FromAgent, ToAgent};

use crate::{
    Millis,
    agents::Link,
    world::{Event, World},
};

pub(crate) struct Stream {
    pub(crate) process: usize,
    pub(crate) replica: usize,
    /// Which life of the server it leads to.
    pub(crate) incarnation: u32,
    /// Nothing sent later arrives earlier than this.
    up_at: Millis,
    down_at: Millis,
    /// From then on nothing arrives.
    up_cut: Millis,
    down_cut: Millis,
}

impl World {
    fn delay(&mut self) -> Millis {
        match self.rng.below(1000) {
            0..=4 if self.has_faults() => self.rng.between(2_000, 30_000),
            5..=50 if self.has_faults() => self.rng.between(20, 2_000),
            _ => self.rng.between(1, 20),
        }
    }

    pub(crate) fn make_stream(&mut self, process: usize, replica: usize) -> usize {
        let incarnation = self.replicas[replica].incarnation;
        self.streams.push(Stream {
            process,
            replica,
            incarnation,
            up_at: self.now,
            down_at: self.now,
            up_cut: Millis::MAX,
            down_cut: Millis::MAX,
        });
        self.streams.len() - 1
    }

    /// A server may be slow to take a stream: what is sent on it waits.
    fn make_slow(&mut self, stream: usize) {
        let late = self.now + self.rng.between(5_000, 30_000);
        self.streams[stream].up_at = late;
    }

    fn send_up(&mut self, stream: usize, event: Event) {
        let at = self.now + self.delay();
        let link = &mut self.streams[stream];
        link.up_at = link.up_at.max(at);
        let at = link.up_at;
        self.push(at, event);
    }

    fn send_down(&mut self, stream: usize, event: Event) {
        let at = self.now + self.delay();
        let link = &mut self.streams[stream];
        link.down_at = link.down_at.max(at);
        let at = link.down_at;
        self.push(at, event);
    }

    pub(crate) fn hello(&mut self, stream: usize) {
        if self.has_faults() && self.rng.chance(50) {
            self.make_slow(stream);
        }
        let held = self.processes[self.streams[stream].process].session.held();
        self.send_up(stream, Event::Hello(stream, held));
    }

    pub(crate) fn say_to_server(&mut self, stream: usize, message: FromAgent) {
        if self.rng.chance(self.repeated) {
            self.send_up(stream, Event::ToServer(stream, message.clone()));
        }
        self.send_up(stream, Event::ToServer(stream, message));
    }

    pub(crate) fn say_to_agent(&mut self, stream: usize, message: ToAgent) {
        let once = matches!(message, ToAgent::Welcome { .. });
        if !once && self.rng.chance(self.repeated) {
            self.send_down(stream, Event::ToAgent(stream, message.clone()));
        }
        self.send_down(stream, Event::ToAgent(stream, message));
    }

    pub(crate) fn close_from_agent(&mut self, stream: usize) {
        self.send_up(stream, Event::AgentClosed(stream));
    }

    pub(crate) fn close_from_server(&mut self, stream: usize, refused: bool) {
        self.send_down(stream, Event::ServerClosed { stream, refused });
    }

    /// Loses what is on its way, in each direction from a moment of its own on. Or only in one of them:
    /// what is said in the other still arrives, late, when the agent may have another stream already.
    pub(crate) fn cut(&mut self, stream: usize) {
        let (up, down) = (self.rng.between(0, 500), self.rng.between(0, 500));
        let (stalled, late) = (self.rng.below(3), self.now + self.rng.between(500, 30_000));
        let link = &mut self.streams[stream];
        match stalled {
            0 => link.up_at = link.up_at.max(late),
            _ => link.up_cut = link.up_cut.min(self.now + up),
        }
        match stalled {
            1 => link.down_at = link.down_at.max(late),
            _ => link.down_cut = link.down_cut.min(self.now + down),
        }
        if stalled == 0 {
            return self.after(500, 8_000, Event::AgentNotices(stream));
        }
        self.after(500, 15_000, Event::ServerNotices(stream));
        self.after(500, 15_000, Event::AgentNotices(stream));
    }

    /// Whether what arrives now at the server's side is heard.
    pub(crate) fn reaches_server(&self, stream: usize) -> bool {
        let link = &self.streams[stream];
        let replica = &self.replicas[link.replica];
        self.now < link.up_cut && replica.up && replica.incarnation == link.incarnation
    }

    /// Whether a stream is the one that its agent uses.
    pub(crate) fn is_present(&self, stream: usize) -> bool {
        let link = self.processes[self.streams[stream].process].link;
        [Link::Opening(stream), Link::Up(stream)].contains(&link)
    }

    pub(crate) fn reaches_agent(&self, stream: usize) -> bool {
        self.now < self.streams[stream].down_cut
    }

    /// Whether an agent can connect to a server now.
    pub(crate) fn can_connect(&self, process: usize, replica: usize) -> bool {
        self.replicas[replica].up && self.processes[process].cut_off_until[replica] <= self.now
    }

    /// Whether the store answers a server.
    pub(crate) fn store_answers(&self) -> bool {
        self.store_down_until <= self.now
    }
}
