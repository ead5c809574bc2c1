//! Metrics in Prometheus' text format 0.0.4.

use prometheus::TextEncoder;
use prometheus::core::Collector;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// All series of one name.
#[derive(Debug)]
pub struct Family {
    all: MetricFamily,
    is_kept: bool,
}

pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Family {
    pub fn counter(name: &str, help: &str) -> Self {
        Self::new(MetricType::COUNTER, name, help)
    }

    pub fn gauge(name: &str, help: &str) -> Self {
        Self::new(MetricType::GAUGE, name, help)
    }

    pub fn histogram(name: &str, help: &str) -> Self {
        Self::new(MetricType::HISTOGRAM, name, help)
    }

    fn new(kind: MetricType, name: &str, help: &str) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        let is_kept = false;
        Self {
            all: family,
            is_kept,
        }
    }

    /// Writes help and type even without a series. For metrics that depend on the configuration, so
    /// that authors of queries find them.
    pub fn kept(mut self) -> Self {
        self.is_kept = true;
        self
    }

    pub fn add(&mut self, labels: Labels<'_>, value: f64) {
        let mut metric = Metric::from_label(pairs(labels));
        if self.all.get_field_type() == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.all.mut_metric().push(metric);
    }

    pub fn add_histogram(&mut self, labels: Labels<'_>, histogram: &prometheus::Histogram) {
        for mut family in histogram.collect() {
            for mut metric in family.take_metric() {
                metric.set_label(pairs(labels));
                self.all.mut_metric().push(metric);
            }
        }
    }
}

fn pairs(labels: Labels<'_>) -> Vec<LabelPair> {
    labels
        .iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect()
}

/// Names without a series are left out, unless they are [kept](Family::kept).
pub fn render(families: Vec<Family>) -> String {
    let has_series = |family: &Family| !family.all.get_metric().is_empty();
    let (families, empty): (Vec<Family>, Vec<Family>) = families.into_iter().partition(has_series);
    let families: Vec<MetricFamily> = families.into_iter().map(|family| family.all).collect();
    let mut text = TextEncoder::new()
        .encode_to_string(&families)
        .unwrap_or_else(|error| {
            // Names and series were checked above.
            log::error!("metrics: cannot be written: {error}");
            String::new()
        });
    for Family { all, .. } in empty.into_iter().filter(|family| family.is_kept) {
        let (name, help) = (all.name(), all.help());
        let kind = match all.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            _ => "gauge",
        };
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_labels_and_values_are_written_and_names_without_a_series_where_they_are_kept() {
        let mut total = Family::counter("x_total", "How many.");
        total.add(&[("route", "a \"b\"\\"), ("status", "200")], 3.0);
        let mut active = Family::gauge("x_active", "Now.");
        active.add(&[], 1.5);
        let none = Family::gauge("x_none", "Nothing.");
        let kept = Family::gauge("x_kept", "Nothing yet.").kept();
        assert_eq!(
            render(vec![total, none, kept, active]),
            "# HELP x_total How many.\n# TYPE x_total counter\n\
             x_total{route=\"a \\\"b\\\"\\\\\",status=\"200\"} 3\n\
             # HELP x_active Now.\n# TYPE x_active gauge\nx_active 1.5\n\
             # HELP x_kept Nothing yet.\n# TYPE x_kept gauge\n"
        );
    }
}
