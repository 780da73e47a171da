//! The broker contract: one suite, run against embedded rmqtt and against Debian's Mosquitto with the configuration that Wayside
//! writes for it, over mutual TLS.
//!
//! Invariant: every case runs on both brokers; where they differ, the case states both behaviours, so that a change of either is
//! seen. Not here: what the bytes mean (`sim`, `e2e`). The differences are explained in `docs/decisions/0002-embedded-broker.md`.
//!
//! Mosquitto that is not installed is skipped, unless `WAYSIDE_REQUIRE_MOSQUITTO` is set.

mod access;
mod bed;
mod delivery;
mod device;
mod entry;
mod pki;
mod plain;
mod witness;

macro_rules! contract {
    ($($module:ident :: $case:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::run!(Embedded, $module, $case);
            })*
        }
        mod mosquitto {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::run!(Mosquitto, $module, $case);
            })*
        }
    };
}

macro_rules! run {
    ($kind:ident, $module:ident, $case:ident) => {
        if let Some(mut bed) = crate::bed::Bed::start(crate::bed::Kind::$kind).await {
            crate::$module::$case(&mut bed).await;
            bed.stop().await;
        }
    };
}
use run;

contract![
    entry::the_certificate_alone_names_a_device,
    entry::a_certificate_of_another_fleet,
    entry::no_certificate_and_a_foreign_one_are_refused,
    entry::tls_1_2_is_refused,
    entry::the_same_device_twice_ends_the_first_connection,
    entry::a_revoked_device_is_thrown_out_and_stays_out,
    entry::an_oversized_packet_ends_the_connection_and_nothing_else,
    access::a_publish_outside_the_own_topics_is_refused,
    access::a_topic_with_a_wildcard_is_refused,
    access::a_retained_publish_of_a_device,
    access::no_subscription_reaches_what_is_not_for_the_device,
    access::a_subscription_with_qos_0,
    access::a_will_outside_the_own_topics_never_arrives,
    access::a_will_arrives_when_the_connection_breaks_and_not_after_a_farewell,
    access::a_response_topic_moves_nobody_to_publish_there,
    delivery::nothing_is_acknowledged_before_it_is_committed,
    delivery::what_cannot_be_taken_now_comes_again,
    delivery::replies_reach_the_device_after_the_commit,
    delivery::publishes_of_one_device_are_taken_in_order,
    delivery::a_session_keeps_what_is_sent_while_the_device_is_away,
    delivery::a_queue_has_a_bound,
    delivery::the_desired_state_waits_for_a_device_without_a_session,
    delivery::what_has_expired_is_not_delivered,
];
