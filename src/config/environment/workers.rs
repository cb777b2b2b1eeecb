//! How many data workers: what is asked for, what the container may use, or a share of the cores.

use super::{proxy_config::ProxyConfig, variables::Variables};

/// As many threads at most, whatever is asked for.
const MOST: usize = 256;

const THREADS: &str = "ZTUNNEL_WORKER_THREADS";
const LIMIT: &str = "ZTUNNEL_RESOURCE_CPU_LIMIT";
const REQUEST: &str = "ZTUNNEL_RESOURCE_CPU_REQUEST";

/// The number of data workers on a machine with so many cores.
pub(super) fn count(vars: &Variables, config: &ProxyConfig, cores: usize) -> usize {
    let cores = vars.parse("ZTUNNEL_CPU_LIMIT", "whole cores, such as 4").unwrap_or(cores);
    let cores = cores.max(1);
    let [limit, request] = [LIMIT, REQUEST].map(|name| quantity(vars, name));
    let asked = threads(vars, cores);
    let configured = config.concurrency.map(|n| if n == 0 { cores } else { n });
    let of_limit = limit.map(|limit| limit.max(request.unwrap_or(0)));
    let of_cores = || cores.div_ceil(4).max(2).max(request.unwrap_or(0));
    let count = asked.or(configured).or(of_limit).unwrap_or_else(of_cores);
    count.clamp(1, MOST)
}

/// `4`, `50%`; `0` is all cores.
fn threads(vars: &Variables, cores: usize) -> Option<usize> {
    let text = vars.text(THREADS)?.trim();
    let percent = text.strip_suffix('%').map(str::parse::<f64>);
    let count = match (percent, text.parse::<usize>()) {
        (Some(Ok(percent)), _) if percent > 0.0 && percent <= 100.0 => {
            Some(((cores as f64) * percent / 100.0).ceil() as usize)
        }
        (None, Ok(0)) => Some(cores),
        (None, Ok(count)) => Some(count),
        _ => None,
    };
    if count.is_none() {
        vars.fault(THREADS, "a number of threads, or a share of the cores from 1% to 100%");
    }
    count
}

/// A quantity of Kubernetes in whole cores, rounded up: `2`, `1.5`, `500m`.
fn quantity(vars: &Variables, name: &str) -> Option<usize> {
    let text = vars.text(name)?.trim();
    let (number, unit) = match text.strip_suffix('m') {
        Some(milli) => (milli, 1000.0),
        None => (text, 1.0),
    };
    let legal = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let cores = number.parse::<f64>().ok().filter(|_| legal).map(|n| (n / unit).ceil());
    let cores = cores.filter(|cores| (1.0..=65_536.0).contains(cores));
    if cores.is_none() {
        vars.fault(name, "a quantity of cores above 0, such as 2, 1.5 or 500m");
    }
    cores.map(|cores| cores as usize)
}
