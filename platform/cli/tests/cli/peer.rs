//! A scripted job and log service over a real socket, and the command run against it.

use std::{
    path::Path,
    pin::Pin,
    process::{Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use hodei_core::{
    attempt::Outcome,
    session::{Frame, Gap, GapCause, OutputStream},
};
use hodei_proto::{
    frame_to_wire,
    v1::{
        self, JobState,
        job_service_server::{JobService, JobServiceServer},
        log_stream_service_server::{LogStreamService, LogStreamServiceServer},
    },
};
use tokio::{net::TcpListener, process::Command, sync::watch, time::timeout};
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

pub(crate) const JOB: &str = "0190a6f0-0000-7000-8000-000000000001";
/// Every wait of a test, at most.
const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits with a deadline that names what was awaited.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// What the server does.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// The job's output.
    pub(crate) frames: Vec<v1::LogFrame>,
    /// After how many frames to break the next log streams.
    pub(crate) cuts: Vec<usize>,
    /// How the job ends once its output was sent; `None`: not by itself.
    pub(crate) end: Option<(JobState, Option<Outcome>)>,
    /// Cancelling has no effect.
    pub(crate) deaf: bool,
    /// The token that is wanted.
    pub(crate) token: Option<&'static str>,
    /// How many of the next reads of a job are refused as too many, each until so many seconds have passed.
    pub(crate) too_many: (usize, u64),
}

#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) address: String,
    script: Arc<Mutex<Script>>,
    job: watch::Sender<v1::Job>,
    pub(crate) submitted: Arc<Mutex<Vec<v1::SubmitJobRequest>>>,
    /// The keys of retries.
    pub(crate) retried: Arc<Mutex<Vec<String>>>,
}

type Reply<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Peer {
    pub(crate) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let job = v1::Job { id: JOB.into(), state: JobState::Queued.into(), ..Default::default() };
        let peer = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            script: Arc::new(Mutex::new(script)),
            job: watch::Sender::new(job),
            submitted: Arc::default(),
            retried: Arc::default(),
        };
        let (jobs, logs) = (peer.clone(), peer.clone());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(JobServiceServer::new(jobs))
                .add_service(LogStreamServiceServer::new(logs))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        peer
    }

    /// The job ends so.
    pub(crate) fn finish(&self, state: JobState, outcome: Option<&Outcome>) {
        self.job.send_modify(|job| {
            job.state = state.into();
            job.outcome = outcome.map(Into::into);
            job.reason = "as scripted".into();
            job.version += 1;
        });
    }

    /// The job is in a state, for this reason.
    pub(crate) fn turn(&self, state: JobState, reason: &str) {
        self.job.send_modify(|job| {
            job.state = state.into();
            job.reason = reason.into();
            job.version += 1;
        });
    }

    fn current(&self) -> Option<v1::Job> {
        Some(self.job.borrow().clone())
    }

    /// The command, connected to this server and nothing else of this machine.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.env("HODEI_SERVER_ADDRESS", &self.address);
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        run(self.command(arguments)).await
    }
}

#[tonic::async_trait]
impl JobService for Peer {
    async fn submit(
        &self,
        request: Request<v1::SubmitJobRequest>,
    ) -> Result<Response<v1::SubmitJobResponse>, Status> {
        self.submitted.lock().unwrap().push(request.into_inner());
        Ok(Response::new(v1::SubmitJobResponse { job: self.current() }))
    }

    async fn get(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let (wanted, refused) = {
            let mut script = self.script.lock().unwrap();
            let refused = script.too_many.0 > 0;
            script.too_many.0 = script.too_many.0.saturating_sub(1);
            (script.token, refused.then_some(Duration::from_secs(script.too_many.1)))
        };
        if refused.is_some() {
            let details = ErrorDetails::with_retry_info(refused);
            let text = "too many requests of this client";
            return Err(Status::with_error_details(Code::ResourceExhausted, text, details));
        }
        if wanted.is_some_and(|token| header != Some(&format!("Bearer {token}"))) {
            return Err(Status::unauthenticated("no token"));
        }
        if request.get_ref().id != JOB {
            return Err(Status::not_found("there is no job of this id"));
        }
        Ok(Response::new(v1::GetJobResponse { job: self.current() }))
    }

    async fn list(
        &self,
        _: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let jobs = self.current().into_iter().collect();
        Ok(Response::new(v1::ListJobsResponse { jobs, next_page_token: String::new() }))
    }

    async fn cancel(
        &self,
        _: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        let deaf = { self.script.lock().unwrap().deaf };
        if !deaf {
            self.finish(JobState::Cancelled, Some(&Outcome::Cancelled));
        }
        Ok(Response::new(v1::CancelJobResponse { job: self.current() }))
    }

    async fn retry(
        &self,
        request: Request<v1::RetryJobRequest>,
    ) -> Result<Response<v1::RetryJobResponse>, Status> {
        let state = self.job.borrow().state();
        if state != JobState::Failed {
            return Err(Status::failed_precondition("only a job that has ended is retried"));
        }
        self.retried.lock().unwrap().push(request.into_inner().idempotency_key);
        self.turn(JobState::Queued, "");
        Ok(Response::new(v1::RetryJobResponse { job: self.current() }))
    }

    type WatchStream = Reply<v1::WatchJobResponse>;

    async fn watch(
        &self,
        _: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let changes = WatchStream::new(self.job.subscribe());
        Ok(Response::new(changes.map(|job| Ok(v1::WatchJobResponse { job: Some(job) })).boxed()))
    }
}

#[tonic::async_trait]
impl LogStreamService for Peer {
    type StreamStream = Reply<v1::StreamLogsResponse>;

    async fn stream(
        &self,
        request: Request<v1::StreamLogsRequest>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let from = request.get_ref().from_sequence;
        let (frames, cut, end) = {
            let mut script = self.script.lock().unwrap();
            let cut = (!script.cuts.is_empty()).then(|| script.cuts.remove(0));
            let wanted = script.frames.iter().filter(|frame| frame.sequence >= from);
            let frames: Vec<_> = wanted.cloned().collect();
            (frames, cut, script.end.clone())
        };
        let cut_at = cut.unwrap_or(frames.len());
        let sent = frames.into_iter().take(cut_at);
        let sent: Vec<_> = sent
            .map(|frame| Ok(v1::StreamLogsResponse { epoch: 1, frames: vec![frame] }))
            .collect();
        let (peer, follow) = (self.clone(), request.get_ref().follow);
        let ended = stream::once(async move {
            if cut.is_some() {
                return Some(Err(Status::unavailable("the link was cut")));
            }
            if let Some((state, outcome)) = end {
                peer.finish(state, outcome.as_ref());
            }
            let mut job = peer.job.subscribe();
            let over = |job: &v1::Job| job.state().to_core().is_some_and(|state| state.is_final());
            if follow && job.wait_for(over).await.is_err() {
                return Some(Err(Status::internal("the job is gone")));
            }
            None
        });
        let ended = ended.filter_map(std::future::ready);
        Ok(Response::new(stream::iter(sent).chain(ended).boxed()))
    }
}

/// Output in alternation of the streams named.
pub(crate) fn frames(pieces: &[(OutputStream, &'static [u8])]) -> Vec<v1::LogFrame> {
    let make = |(index, &(stream, data)): (usize, &(OutputStream, &'static [u8]))| {
        frame_to_wire(Frame {
            sequence: index as u64 + 1,
            stream,
            time: jiff::Timestamp::UNIX_EPOCH,
            data: data.into(),
            gap: None,
        })
    };
    pieces.iter().enumerate().map(make).collect()
}

/// A frame that stands for a megabyte of lost output.
pub(crate) fn gap(sequence: u64) -> v1::LogFrame {
    let since = jiff::Timestamp::UNIX_EPOCH;
    let gap = Gap { bytes: 1 << 20, frames: 999, since, cause: GapCause::SpoolFull };
    let (stream, data) = (OutputStream::Stderr, bytes::Bytes::new());
    frame_to_wire(Frame { sequence, stream, time: since, data, gap: Some(gap) })
}

/// The command with an environment of its own.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hodei"));
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").kill_on_drop(true);
    command.env("XDG_CONFIG_HOME", Path::new("/nonexistent")).env("HOME", "/nonexistent");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { code: output.status.code(), stdout: output.stdout, stderr }
    }
}

pub(crate) async fn run(mut command: Command) -> Ended {
    within("the command's end", command.output()).await.unwrap().into()
}
