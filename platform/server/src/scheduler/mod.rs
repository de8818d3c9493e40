//! What makes things happen: queued jobs get workers, workers are watched, clocked and destroyed. Each
//! part is a loop that reads the present state and acts on it, woken by notifications, with a slow poll
//! beside them; so it may be killed at any point and started again.

mod clock;
mod dispatch;
mod launch;
pub(crate) mod observe;
pub(crate) mod otp;
mod pool;
mod reaper;
pub(crate) mod roster;
mod waiting;

use std::sync::Arc;

use crate::{
    app::App,
    logs::{archive, retention},
};

/// Starts every loop; each ends when the server stops.
pub(crate) fn start(app: &Arc<App>) {
    let spawn = |name: &'static str, work: futures::future::BoxFuture<'static, ()>| {
        let stop = app.stop.clone();
        app.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
            tracing::debug!(name, "ended");
        });
    };
    spawn("roster", Box::pin(roster::run(app.clone())));
    spawn("dispatch", Box::pin(dispatch::run(app.clone())));
    spawn("clock", Box::pin(clock::run(app.clone())));
    spawn("reaper", Box::pin(reaper::run(app.clone())));
    spawn("archive", Box::pin(archive::run(app.logs.clone())));
    spawn("retention", Box::pin(retention::run(app.logs.clone(), app.periods)));
    spawn("pool", Box::pin(pool::run(app.clone())));
    spawn("waiting", Box::pin(waiting::run(app.clone())));
}
