//! What the operating system says about this process.
//!
//! Read from `/proc/self` at each scrape; Linux only, absent elsewhere. Parsing is pure and apart from reading.

use std::fs;

/// Clock ticks per second in `/proc/self/stat`: fixed at 100 for user space on every Linux that Rust supports.
/// Source: proc_pid_stat(5), `sysconf(_SC_CLK_TCK)`; asking for it would need a foreign function call.
const TICKS_PER_SECOND: f64 = 100.0;

/// One reading. A value that could not be read is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct ProcessSample {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<f64>,
    pub(super) virtual_bytes: Option<f64>,
    pub(super) open_fds: Option<f64>,
    pub(super) max_fds: Option<f64>,
    pub(super) threads: Option<f64>,
    pub(super) start_seconds: Option<f64>,
}

impl ProcessSample {
    /// Reads `/proc`; everything is `None` where there is none.
    pub(super) fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let mut sample = Self::parse(
            &text("/proc/self/stat"),
            &text("/proc/self/status"),
            &text("/proc/self/limits"),
            &text("/proc/stat"),
        );
        // The directory handle that lists the descriptors is one of them.
        sample.open_fds = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64);
        sample
    }

    fn parse(stat: &str, status: &str, limits: &str, system: &str) -> Self {
        // The command's name is in parentheses and may hold spaces; the state is the first field after it, number 3.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
        let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<f64>().ok();
        let line = |text: &str, name: &str, word: usize| {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            rest.split_whitespace().nth(word)?.parse::<f64>().ok()
        };
        Self {
            cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS_PER_SECOND),
            resident_bytes: line(status, "VmRSS:", 0).map(|kib| kib * 1024.0),
            virtual_bytes: field(23),
            open_fds: None,
            max_fds: line(limits, "Max open files", 0),
            threads: field(20),
            start_seconds: field(22).zip(line(system, "btime", 0)).map(|(ticks, boot)| boot + ticks / TICKS_PER_SECOND),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_process_whose_name_holds_spaces_and_parentheses() {
        let stat = "42 (dyna (fer) ry) S 1 42 42 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 1000 123456789 777 18446744073709551615";
        let status = "Name:\tdynaferry\nVmSize:\t  120000 kB\nVmRSS:\t   20480 kB\nThreads:\t9\n";
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        let sample = ProcessSample::parse(stat, status, limits, "cpu 1 2 3\nbtime 1760000000\nprocesses 1\n");
        let expected = ProcessSample {
            cpu_seconds: Some(3.0),
            resident_bytes: Some(20_971_520.0),
            virtual_bytes: Some(123_456_789.0),
            open_fds: None,
            max_fds: Some(1024.0),
            threads: Some(9.0),
            start_seconds: Some(1_760_000_010.0),
        };
        assert_eq!(sample, expected);
    }

    #[test]
    fn without_proc_nothing_is_known() {
        assert_eq!(
            ProcessSample::parse("", "", "Max open files unlimited unlimited files", ""),
            ProcessSample::default()
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn knows_this_very_process() {
        let sample = ProcessSample::read();
        assert!(
            sample.resident_bytes > Some(1_000_000.0) && sample.open_fds >= Some(3.0) && sample.threads >= Some(1.0)
        );
        assert!(sample.start_seconds > Some(1_600_000_000.0), "{sample:?}");
    }
}
