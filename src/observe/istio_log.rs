//! Log lines as tools for Istio's ambient mesh split them: fields behind tabs, or one JSON object
//! with its keys in a known order.

use std::{
    fmt::{self, Write as _},
    time::SystemTime,
};

use serde_json::Value;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer},
    registry::LookupSpan,
};

/// `TIME level target message k=v …`, with tabs up to the fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain;

/// One object: `level`, `time`, `scope`, `message`, then the fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Json;

/// Texts that stand without quotes, and what is no text and has them, as everybody is used to.
const BARE: &str = "dst.hbone_addr";
const QUOTED: [&str; 2] = ["src.identity", "dst.identity"];

/// RFC 3339 with microseconds, however few there are.
fn time() -> impl fmt::Display {
    humantime::format_rfc3339_micros(SystemTime::now())
}

fn level(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let of = event.metadata();
        let target = of.target().strip_prefix("adit::").unwrap_or(of.target());
        write!(writer, "{}\t{}\t{target}", time(), level(of.level()))?;
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            write!(writer, ":{}", span.name())?;
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>();
            if let Some(fields) = fields.filter(|fields| !fields.is_empty()) {
                write!(writer, "{{{fields}}}")?;
            }
        }
        let mut fields = PlainFields::default();
        event.record(&mut fields);
        writeln!(writer, "\t{}\t{}", fields.message, fields.others)
    }
}

/// The fields of an event as text.
#[derive(Default)]
struct PlainFields {
    message: String,
    others: String,
}

impl PlainFields {
    fn add(&mut self, name: &str, value: impl fmt::Display) {
        let blank = if self.others.is_empty() { "" } else { " " };
        let _ = write!(self.others, "{blank}{name}={value}");
    }
}

impl Visit for PlainFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = one_line(value),
            BARE if is_word(value) => self.add(BARE, value),
            name => self.add(name, format_args!("{value:?}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = one_line(&text),
            // What has blanks would be several fields for whoever splits at them.
            name if QUOTED.contains(&name) || !is_word(&text) => {
                self.add(name, format_args!("{text:?}"));
            }
            name => self.add(name, text),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), value);
    }
}

/// Whether it is one piece for whoever splits at blanks. Texts in quotes of their own are.
fn is_word(text: &str) -> bool {
    let quoted = text.len() > 1 && text.starts_with('"') && text.ends_with('"');
    let bad = |c: char| c.is_control() || (c.is_whitespace() && !quoted);
    !text.is_empty() && !text.contains(bad)
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let of = event.metadata();
        let text = |text: &str| Value::from(text).to_string();
        let (level, scope) = (level(of.level()), text(of.target()));
        write!(writer, "{{\"level\":\"{level}\",\"time\":\"{}\",\"scope\":{scope}", time())?;
        let mut fields = JsonFields::default();
        event.record(&mut fields);
        if let Some(message) = fields.message {
            write!(writer, ",\"message\":{}", text(&message))?;
            // Where bug reports look for it.
            if *of.level() <= Level::WARN {
                write!(writer, ",\"msg\":{}", text(&message))?;
            }
        }
        for (name, value) in fields.others {
            write!(writer, ",{}:{value}", text(name))?;
        }
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let fields =
                extensions.get::<FormattedFields<N>>().map(|fields| fields.fields.as_str());
            let fields = fields.filter(|fields| !fields.is_empty()).unwrap_or("{}");
            write!(writer, ",{}:{fields}", text(span.name()))?;
        }
        writeln!(writer, "}}")
    }
}

/// The fields of an event as JSON, in their order.
#[derive(Default)]
struct JsonFields {
    message: Option<String>,
    others: Vec<(&'static str, Value)>,
}

impl Visit for JsonFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = Some(value.into()),
            name => self.others.push((name, value.into())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.others.push((field.name(), value.into()));
    }
}

#[cfg(test)]
mod tests;
