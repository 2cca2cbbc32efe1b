//! Translates the names of log targets: crates have `tftp::…`, and people see `lineside::tftp::…`.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// The name of each crate, and the name that people see. People filter several crates by one name: `online` and
/// `repository` are `hq`, and `seal` is `bundle`.
const NAMES: &[(&str, &str)] = &[
    ("access", "access"),
    ("api", "api"),
    ("appliance", "appliance"),
    ("bundle", "bundle"),
    ("dhcp", "dhcp"),
    ("durable", "durable"),
    ("ethernet", "ethernet"),
    ("hq", "hq"),
    ("ids", "ids"),
    ("online", "hq"),
    ("repository", "hq"),
    ("seal", "bundle"),
    ("settings", "settings"),
    ("status", "status"),
    ("store", "store"),
    ("telemetry", "telemetry"),
    ("tftp", "tftp"),
    ("tuf", "tuf"),
    ("update", "update"),
];

/// The beginning of all targets that people see. Targets of the root package have it already.
const PREFIX: &str = "lineside";

/// Translates a filter into names of crates: `lineside::tftp=trace` becomes `tftp=trace`, and `lineside=debug` a
/// directive for each crate.
pub(crate) fn to_crates(filter: &str) -> String {
    let mut directives = Vec::new();
    for directive in filter.split(',') {
        // A directive is `target[span{field=value}]=level`, in which all but one part may be missing.
        let end = directive.find(['=', '[']).unwrap_or(directive.len());
        let (target, rest) = directive.split_at(end);
        let target = target.trim();
        let room = target.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix("::"));
        if let Some(room) = room {
            let (name, within) = room.split_at(room.find("::").unwrap_or(room.len()));
            let crates = NAMES.iter().filter(|(_, shown)| *shown == name);
            directives.extend(crates.map(|(own, _)| format!("{own}{within}{rest}")));
        } else if target == PREFIX {
            directives.extend(NAMES.iter().map(|(own, _)| format!("{own}{rest}")));
        }
        // The directive also stays as it is, for the demo's own targets in the root package.
        directives.push(directive.to_owned());
    }
    directives.join(",")
}

/// Translates a target for people, in three parts that are printed one after the other.
fn shown(target: &str) -> (&'static str, &'static str, &str) {
    let (first, within) = target.split_at(target.find("::").unwrap_or(target.len()));
    match NAMES.iter().find(|(own, _)| *own == first) {
        Some((_, name)) => ("lineside::", name, within),
        None => ("", "", target),
    }
}

/// Formats an event as one line, as `tracing_subscriber` does it: time, level, spans, target, fields.
pub(crate) struct EventLine {
    /// Whether the line begins with the time, in UTC.
    pub(crate) time: bool,
}

impl<S, N> FormatEvent<S, N> for EventLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (bold, dim, end) = if to.has_ansi_escapes() { ("\x1b[1m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
        if self.time {
            to.write_str(dim)?;
            SystemTime.format_time(&mut to)?;
            write!(to, "{end} ")?;
        }
        let level = *event.metadata().level();
        let colour = match level {
            _ if end.is_empty() => "",
            Level::ERROR => "\x1b[31m",
            Level::WARN => "\x1b[33m",
            Level::INFO => "\x1b[32m",
            Level::DEBUG => "\x1b[34m",
            Level::TRACE => "\x1b[35m",
        };
        write!(to, "{colour}{level:>5}{end} ")?;
        if let Some(scope) = context.event_scope() {
            for span in scope.from_root() {
                write!(to, "{bold}{}{end}", span.name())?;
                let extensions = span.extensions();
                if let Some(fields) = extensions.get::<FormattedFields<N>>().filter(|fields| !fields.is_empty()) {
                    write!(to, "{bold}{{{end}{fields}{bold}}}{end}")?;
                }
                write!(to, "{dim}:{end}")?;
            }
            to.write_str(" ")?;
        }
        let (prefix, name, within) = shown(event.metadata().target());
        write!(to, "{dim}{prefix}{name}{within}:{end} ")?;
        context.format_fields(to.by_ref(), event)?;
        writeln!(to)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is printed of events of three targets, under this filter.
    fn printed(filter: &str) -> String {
        let lines = Lines::default();
        let to = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || to.clone())
            .with_ansi(false)
            .event_format(EventLine { time: false });
        let filter = EnvFilter::builder().parse_lossy(to_crates(filter));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(filter).with(layer), || {
            let span = tracing::info_span!(target: "tftp::service", "transfer", device = 7);
            span.in_scope(|| tracing::info!(target: "tftp::service", bytes = 3, "file served"));
            tracing::debug!(target: "online::service::routes", "asked");
            tracing::info!(target: "hyper", "not ours");
        });
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_room_is_filtered_and_shown_below_the_products_name() {
        let served = " INFO transfer{device=7}: lineside::tftp::service: file served bytes=3\n";
        let asked = "DEBUG lineside::hq::service::routes: asked\n";
        assert_eq!(printed("lineside::tftp=info"), served);
        assert_eq!(printed("lineside::tftp::service=info,lineside::hq=debug"), format!("{served}{asked}"));
        assert_eq!(printed("lineside=debug"), format!("{served}{asked}"));
        assert_eq!(printed("lineside=debug,lineside::tftp=warn"), asked);
        assert_eq!(printed("lineside::hq::service::routes=trace"), asked);
        assert_eq!(printed("warn,lineside=warn"), "");
        assert_eq!(printed("hyper=info"), " INFO hyper: not ours\n");
    }

    #[test]
    fn a_filter_by_span_or_field_keeps_them() {
        assert!(to_crates("lineside::tftp[transfer{device=7}]=trace").starts_with("tftp[transfer{device=7}]=trace,"));
        assert_eq!(to_crates("info"), "info");
    }
}
