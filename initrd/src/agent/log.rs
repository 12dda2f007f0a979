//! Where log lines of the engine go: to the console, and to the server as reports.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use systemimager_core::Level;
use systemimager_engine::report::Event;
use tracing::field::{Field, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::console;
use super::reports::Reporter;

/// The reporter, once there is one.
#[derive(Clone, Default)]
pub struct Log {
    reporter: Arc<Mutex<Option<Reporter>>>,
    threshold: Option<tracing::Level>,
}

impl Log {
    /// Starts taking log lines; `threshold` is `si.log` of the kernel command line (`debug`), info without it.
    pub fn start(threshold: Option<&str>) -> Self {
        let threshold = threshold.and_then(|word| word.parse().ok());
        let log = Self { reporter: Arc::default(), threshold };
        // There is one agent in the process; a second call would change nothing.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(log.clone()));
        log
    }

    /// Sends what comes from now on to the server too.
    pub fn report_to(&self, reporter: &Reporter) {
        *self.reporter.lock().unwrap_or_else(PoisonError::into_inner) = Some(reporter.clone());
    }

    /// One line.
    pub fn say(&self, level: Level, line: &str) {
        let mark = match level {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            _ => "",
        };
        console::line(format_args!("{mark}{line}"));
        let reporter = self.reporter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reporter) = reporter {
            reporter.post(Event::Log { level, line: line.to_owned() });
        }
    }
}

impl<S: tracing::Subscriber> Layer<S> for Log {
    fn enabled(&self, about: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        // Libraries' own chatter (HTTP, TOML) is never wanted on a console.
        *about.level() <= self.threshold.unwrap_or(tracing::Level::INFO) && about.target().starts_with("systemimager")
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            tracing::Level::DEBUG => Level::Debug,
            tracing::Level::TRACE => Level::Trace,
        };
        self.say(level, &format!("{}{}", text.message, text.fields));
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
