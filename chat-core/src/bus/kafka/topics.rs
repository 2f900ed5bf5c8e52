//! Making the topics.

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::time::timeout;

use super::{
    GRACE,
    aside::Aside,
    config::{self, Quiet},
};
use crate::bus::{DEAD_LETTERS_KEPT, KafkaOptions, OpenError, Topic};

/// Dead letters are few; one partition keeps them in order.
const PARTITIONS_OF_DEAD_LETTERS: i32 = 1;

/// Makes those that are missing. Several processes may do this at a time; what exists stays as it is.
pub(super) async fn make(options: &KafkaOptions) -> Result<(), OpenError> {
    let admin: AdminClient<Quiet> = {
        use rdkafka::config::FromClientConfigAndContext as _;
        AdminClient::from_config_and_context(&config::admin(options), Quiet).map_err(|error| OpenError::Options(Box::new(error)))?
    };
    let admin = Aside::new(admin);
    let retention = [options.retention, DEAD_LETTERS_KEPT].map(|kept| kept.as_millis().to_string());
    let names: Vec<_> = Topic::ALL.into_iter().map(|topic| (config::topic(options, topic), config::dead_letters(options, topic))).collect();
    let new = |name, partitions, retention| {
        NewTopic::new(name, partitions, TopicReplication::Fixed(options.replication)).set("cleanup.policy", "delete").set("retention.ms", retention)
    };
    let topics: Vec<_> = names
        .iter()
        .flat_map(|(live, dead)| [new(live, options.partitions, &retention[0]), new(dead, PARTITIONS_OF_DEAD_LETTERS, &retention[1])])
        .collect();
    let within = AdminOptions::new().request_timeout(Some(options.answer_within)).operation_timeout(Some(options.answer_within));
    let made = timeout(options.answer_within + GRACE, admin.create_topics(&topics, &within)).await;
    let made = made.map_err(|late| unavailable(options, late))?.map_err(|error| unavailable(options, error))?;
    for topic in made {
        match topic {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(unavailable(options, KafkaError::AdminOp(code))),
        }
    }
    Ok(())
}

fn unavailable(options: &KafkaOptions, source: impl std::error::Error + Send + Sync + 'static) -> OpenError {
    OpenError::Unavailable { brokers: options.brokers.clone(), source: Box::new(source) }
}
