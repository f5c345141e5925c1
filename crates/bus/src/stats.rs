//! librdkafka's own figures, as few as an operator can use.

use domain::metric;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::{Partition, Statistics};

/// How often librdkafka tells them.
pub(crate) const INTERVAL: (&str, &str) = ("statistics.interval.ms", "5000");

/// Of the producer: whether it can send, and how promptly.
pub(crate) fn of_producer(statistics: &Statistics) {
    // Bootstrap addresses and the like have no id; librdkafka forgets them once it knows who answers there.
    let brokers = || statistics.brokers.values().filter(|b| b.nodeid >= 0);
    let up = brokers().filter(|b| matches!(b.state.as_str(), "UP" | "UPDATE")).count();
    metrics::gauge!(metric::KAFKA_BROKERS_UP).set(up as f64);
    let partitions = statistics.topics.values().flat_map(|t| t.partitions.values());
    let waiting: i64 = partitions.map(|p| p.msgq_cnt + p.xmit_msgq_cnt).sum();
    metrics::gauge!(metric::KAFKA_QUEUE).set(waiting as f64);
    let (micros, trips) = brokers().filter_map(|b| b.rtt.as_ref()).fold((0, 0), |(s, n), w| (s + w.sum, n + w.cnt));
    if trips > 0 {
        metrics::gauge!(metric::KAFKA_REQUEST).set(micros as f64 / trips as f64 / 1e6);
    }
}

/// Of the intake: what waits on the partitions that are this consumer's.
pub(crate) fn of_intake(statistics: &Statistics, topics: &[String]) {
    for name in topics {
        let topic = statistics.topics.get(name);
        let ours = || topic.into_iter().flat_map(|t| t.partitions.values().filter(|p| p.desired && p.partition >= 0));
        metrics::gauge!(metric::INTAKE_PARTITIONS, "topic" => name.clone()).set(ours().count() as f64);
        // A lag that nobody can know yet is not nought: the figure stands where it stood, or is not there at all.
        let lags: Option<Vec<i64>> = ours().map(lag).collect();
        if let Some(lags) = lags {
            metrics::gauge!(metric::INTAKE_LAG, "topic" => name.clone()).set(lags.iter().sum::<i64>() as f64);
        }
    }
}

/// From what is settled, not from what was fetched; -1001 and the like stand for unknown offsets.
fn lag(partition: &Partition) -> Option<i64> {
    if partition.hi_offset < 0 {
        return None;
    }
    let settled = partition.stored_offset.max(partition.committed_offset).max(partition.lo_offset);
    Some((partition.hi_offset - settled.max(0)).max(0))
}

/// librdkafka reports each of its many codes; these are the ones that ask for different remedies.
pub(crate) fn count_error(error: &KafkaError) {
    use RDKafkaErrorCode as Code;
    let kind = match error.rdkafka_error_code() {
        Some(Code::AllBrokersDown) => "all_brokers_down",
        Some(Code::BrokerTransportFailure | Code::Resolve) => "connection",
        Some(Code::MessageTimedOut | Code::RequestTimedOut | Code::OperationTimedOut) => "timed_out",
        Some(Code::SSL) => "tls",
        Some(Code::Authentication | Code::SaslAuthenticationFailed) => "sasl",
        Some(Code::GroupAuthorizationFailed) => "group_authorization",
        Some(Code::TopicAuthorizationFailed) => "topic_authorization",
        Some(Code::InconsistentGroupProtocol) => "group_protocol",
        Some(Code::FencedInstanceId | Code::Fenced | Code::UnreleasedInstanceId) => "fenced",
        _ => "other",
    };
    metrics::counter!(metric::KAFKA_ERRORS, "kind" => kind).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_counts_what_is_not_settled() {
        let table = [
            ("settled, not committed yet", 7, 5, 0, 3),
            ("nothing settled since the start", -1001, 5, 0, 5),
            ("a new group", -1001, -1001, 4, 6),
            ("retention overtook it", -1001, 2, 4, 6),
            ("nothing known yet", -1001, -1001, -1001, 10),
        ];
        for (claim, stored_offset, committed_offset, lo_offset, expected) in table {
            let partition =
                Partition { hi_offset: 10, lo_offset, stored_offset, committed_offset, ..Partition::default() };
            assert_eq!(lag(&partition), Some(expected), "{claim}");
        }
        assert_eq!(lag(&Partition { hi_offset: -1001, ..Partition::default() }), None, "the broker was not asked yet");
    }
}
