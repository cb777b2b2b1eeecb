//! Where the CPU time of this process goes: stacks, sampled by a timer that its own CPU time
//! drives, written as the `profile.proto` of pprof.
//!
//! Not here: who may ask for it, and for how long ([`crate::admin`]).

mod proto;

use std::{collections::HashMap, time::SystemTime};

use pprof::{ProfilerGuard, ProfilerGuardBuilder, Report};
use prost::Message;

use self::proto::{Function, Line, Location, Profile, Sample, ValueType};

/// A stack that begins in these would be unwound where the kernel may have stopped half-way.
const NOT_UNWOUND: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];
/// The longest stack that is written; the rest of it is left out.
const DEEPEST: usize = 256;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Another one is being taken, or the timer could not be set.
    #[error("the profiler does not start: {0}")]
    Start(pprof::Error),
    /// What was sampled could not be read.
    #[error("the samples cannot be read: {0}")]
    Read(pprof::Error),
}

/// A profile that is being taken, until dropped: one at a time.
pub struct CpuProfile {
    guard: ProfilerGuard<'static>,
    frequency: u32,
    begun: SystemTime,
}

impl CpuProfile {
    /// Begins to sample, so often a second of CPU time.
    ///
    /// # Errors
    /// If another one is being taken.
    pub fn start(frequency: u32) -> Result<Self, ProfileError> {
        let guard = ProfilerGuardBuilder::default()
            .frequency(i32::try_from(frequency).unwrap_or(i32::MAX))
            .blocklist(&NOT_UNWOUND)
            .build()
            .map_err(ProfileError::Start)?;
        Ok(Self { guard, frequency, begun: SystemTime::now() })
    }

    /// What was sampled so far, as pprof reads it. Looks up names, which takes a while.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn finish(self) -> Result<Vec<u8>, ProfileError> {
        let report = self.guard.report().build().map_err(ProfileError::Read)?;
        Ok(written(&report, self.frequency, self.begun).encode_to_vec())
    }
}

/// Texts, functions and locations, each once.
#[derive(Default)]
struct Tables {
    profile: Profile,
    strings: HashMap<String, i64>,
    locations: HashMap<(String, u32), u64>,
    functions: HashMap<String, u64>,
}

impl Tables {
    fn string(&mut self, text: &str) -> i64 {
        if let Some(at) = self.strings.get(text) {
            return *at;
        }
        let at = i64::try_from(self.profile.string_table.len()).unwrap_or(i64::MAX);
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), at);
        at
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> ValueType {
        ValueType { kind: self.string(kind), unit: self.string(unit) }
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        if let Some(id) = self.functions.get(name) {
            return *id;
        }
        let id = self.functions.len() as u64 + 1;
        self.functions.insert(name.to_owned(), id);
        let (name, filename) = (self.string(name), self.string(file));
        self.profile.function.push(Function { id, name, system_name: name, filename });
        id
    }

    fn location(&mut self, name: &str, file: &str, line: u32) -> u64 {
        let key = (name.to_owned(), line);
        if let Some(id) = self.locations.get(&key) {
            return *id;
        }
        let function_id = self.function(name, file);
        let id = self.locations.len() as u64 + 1;
        self.locations.insert(key, id);
        let line = vec![Line { function_id, line: i64::from(line) }];
        self.profile.location.push(Location { id, line });
        id
    }
}

fn written(report: &Report, frequency: u32, begun: SystemTime) -> Profile {
    let mut tables = Tables::default();
    // The first text is empty, as the format wants it.
    tables.string("");
    let samples = tables.value_type("samples", "count");
    let cpu = tables.value_type("cpu", "nanoseconds");
    let period = 1_000_000_000 / i64::from(frequency.max(1));
    for (frames, count) in &report.data {
        let symbols = frames.frames.iter().flatten().take(DEEPEST);
        let mut stack: Vec<u64> = symbols
            .map(|symbol| {
                let line = symbol.lineno();
                tables.location(&symbol.name(), &symbol.filename(), line)
            })
            .collect();
        // The outermost says which thread it was.
        stack.push(tables.location(&frames.thread_name, "", 0));
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        let value = vec![count, count.saturating_mul(period)];
        tables.profile.sample.push(Sample { location_id: stack, value });
    }
    let nanos = |duration: std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(0);
    Profile {
        sample_type: vec![samples, cpu.clone()],
        period_type: Some(cpu),
        period,
        time_nanos: nanos(begun.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()),
        duration_nanos: nanos(begun.elapsed().unwrap_or_default()),
        ..tables.profile
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[inline(never)]
    fn burn_cpu_time_here() {
        let until = Instant::now() + Duration::from_secs(10);
        let mut n = 1_u64;
        // By the process's own time, as the sampler counts.
        let used = || crate::sys::process::usage().cpu_seconds;
        let enough = used() + 0.3;
        while used() < enough && Instant::now() < until {
            n = std::hint::black_box(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }

    #[test]
    fn a_profile_says_where_the_time_went() {
        // The timer counts the time of other tests too: some profiles are all theirs.
        let sampled = (0..50).find_map(|_| {
            let profile = CpuProfile::start(1000).unwrap();
            assert!(matches!(CpuProfile::start(100), Err(ProfileError::Start(_))), "one at a time");
            burn_cpu_time_here();
            let bytes = profile.finish().unwrap();
            let read = Profile::decode(&*bytes).unwrap();
            let here = |text: &String| text.contains("burn_cpu_time_here");
            read.string_table.iter().any(here).then_some(read)
        });
        let read = sampled.expect("one of the profiles has a sample of this test");
        assert_eq!(read.string_table[0], "");
        let text = |at: i64| &*read.string_table[usize::try_from(at).unwrap()];
        let kinds: Vec<_> = read.sample_type.iter().map(|t| (text(t.kind), text(t.unit))).collect();
        assert_eq!(kinds, [("samples", "count"), ("cpu", "nanoseconds")]);
        assert_eq!(read.period, 1_000_000);
        let function = |id: u64| read.function.iter().find(|f| f.id == id).unwrap();
        let location = |id: &u64| read.location.iter().find(|l| l.id == *id).unwrap();
        let is_here = |id: &u64| {
            let name = text(function(location(id).line[0].function_id).name);
            name.contains("burn_cpu_time_here")
        };
        let here = read.sample.iter().filter(|sample| sample.location_id.iter().any(is_here));
        let samples: i64 = here.map(|sample| sample.value[0]).sum();
        assert!(samples > 0, "{:?}", read.string_table);
        drop(CpuProfile::start(100).unwrap());
    }
}
