//! The client against a scripted broker at the other end of a pipe.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::kafka::api::ApiKey;
use crate::kafka::frame::RequestHeader;
use crate::kafka::messages::{
    ApiVersionsRequest, ApiVersionsResponse, HeartbeatRequest, HeartbeatResponse, ProduceRequest,
    api_versions_response, produce_request,
};

/// The broker's end of the pipe.
struct Peer(DuplexStream);

impl Peer {
    async fn frame(&mut self) -> Option<Bytes> {
        let length = self.0.read_i32().await.ok()?;
        let mut frame = vec![0; length as usize];
        self.0.read_exact(&mut frame).await.unwrap();
        Some(frame.into())
    }

    async fn request<R: Request>(&mut self) -> (RequestHeader, R) {
        frame::decode_request(self.frame().await.unwrap()).unwrap()
    }

    async fn answer(&mut self, correlation: i32, key: ApiKey, version: i16, body: &impl Message) {
        let header = key.response_header_version(version);
        let frame = frame::encode_response(correlation, header, body, version).unwrap();
        self.0.write_all(&frame.into_bytes().unwrap()).await.unwrap();
    }

    async fn answer_beat(&mut self, correlation: i32, throttle: i32) {
        let body = HeartbeatResponse { throttle_time_ms: throttle, ..Default::default() };
        self.answer(correlation, ApiKey::Heartbeat, 4, &body).await;
    }
}

fn pair(options: Options, pipe: usize) -> (Client, impl Future<Output = ()>, Peer) {
    let (ours, theirs) = tokio::io::duplex(pipe);
    let (client, driver) = Client::over(ours, options);
    (client, driver, Peer(theirs))
}

fn beat(generation_id: i32) -> HeartbeatRequest {
    HeartbeatRequest { group_id: "g".into(), generation_id, ..Default::default() }
}

/// Runs `script` beside the driver.
async fn alongside<T>(driver: impl Future<Output = ()>, script: impl Future<Output = T>) -> T {
    let driver = std::pin::pin!(async {
        driver.await;
        std::future::pending::<()>().await;
    });
    match futures::future::select(std::pin::pin!(script), driver).await {
        futures::future::Either::Left((value, _)) => value,
        futures::future::Either::Right(_) => unreachable!("the driver's side never ends"),
    }
}

#[tokio::test]
async fn many_calls_are_in_flight_and_each_gets_its_own_answer() {
    let (client, driver, mut peer) = pair(Options::default(), 200);
    alongside(driver, async {
        let calls = futures::future::join_all((0..50).map(|n| {
            let client = client.clone();
            async move { client.call(4, &beat(n)).await.unwrap().throttle_time_ms }
        }));
        let broker = async {
            let mut seen = Vec::new();
            for _ in 0..50 {
                let (header, request) = peer.request::<HeartbeatRequest>().await;
                assert_eq!(header.client_id.as_deref(), Some("tidemark"));
                seen.push((header.correlation_id, request.generation_id));
            }
            for (correlation, generation) in seen {
                peer.answer_beat(correlation, generation * 10).await;
            }
        };
        let (answers, ()) = futures::join!(calls, broker);
        assert_eq!(answers, (0..50).map(|n| n * 10).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn no_more_are_in_flight_than_allowed() {
    let (client, driver, mut peer) = pair(Options { in_flight_max: 2, ..Options::default() }, 1 << 16);
    alongside(driver, async {
        let (first, second, third) = (beat(1), beat(2), beat(3));
        let calls =
            futures::future::join3(client.call(4, &first), client.call(4, &second), client.call(4, &third));
        let broker = async {
            let (one, _) = peer.request::<HeartbeatRequest>().await;
            let (two, _) = peer.request::<HeartbeatRequest>().await;
            let waits = tokio::time::timeout(Duration::from_millis(30), peer.0.read_u8()).await;
            assert!(waits.is_err(), "the third waits for an answer");
            peer.answer_beat(one.correlation_id, 1).await;
            let (three, _) = peer.request::<HeartbeatRequest>().await;
            peer.answer_beat(two.correlation_id, 2).await;
            peer.answer_beat(three.correlation_id, 3).await;
        };
        let ((one, two, three), ()) = futures::join!(calls, broker);
        assert!(one.is_ok() && two.is_ok() && three.is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_call_given_up_does_not_shift_the_answers() {
    let (client, driver, mut peer) = pair(Options::default(), 1 << 16);
    alongside(driver, async {
        let given_up = tokio::time::timeout(Duration::from_millis(20), client.call(4, &beat(1))).await;
        assert!(given_up.is_err());
        let broker = async {
            for throttle in [7, 8] {
                let (header, _) = peer.request::<HeartbeatRequest>().await;
                peer.answer_beat(header.correlation_id, throttle).await;
            }
        };
        let second = beat(2);
        let (answer, ()) = futures::join!(client.call(4, &second), broker);
        assert_eq!(answer.unwrap().throttle_time_ms, 8);
    })
    .await;
}

#[tokio::test]
async fn a_request_without_an_answer_leaves_no_gap() {
    let (client, driver, mut peer) = pair(Options { in_flight_max: 1, ..Options::default() }, 1 << 16);
    alongside(driver, async {
        let produce = ProduceRequest {
            acks: 0,
            topic_data: vec![produce_request::TopicProduceData::default()],
            ..Default::default()
        };
        client.send(9, &produce).await.unwrap();
        client.send(9, &produce).await.unwrap();
        let broker = async {
            for _ in 0..2 {
                let (header, request) = peer.request::<ProduceRequest>().await;
                assert_eq!((header.api_key, request.acks), (0, 0));
            }
            let (header, _) = peer.request::<HeartbeatRequest>().await;
            peer.answer_beat(header.correlation_id, 5).await;
        };
        let one = beat(1);
        let (answer, ()) = futures::join!(client.call(4, &one), broker);
        assert_eq!(answer.unwrap().throttle_time_ms, 5);
    })
    .await;
}

#[tokio::test]
async fn a_frame_goes_through_under_our_own_correlation_id() {
    let (client, driver, mut peer) = pair(Options::default(), 1 << 16);
    alongside(driver, async {
        let theirs = frame::encode_request(77, None, &beat(3), 4).unwrap().into_bytes().unwrap().slice(4..);
        let broker = async {
            let (header, request) = peer.request::<HeartbeatRequest>().await;
            assert_eq!((header.correlation_id, request), (0, beat(3)));
            peer.answer_beat(header.correlation_id, 6).await;
        };
        let (answer, ()) = futures::join!(client.call_frame(theirs), broker);
        // No tags in the header, throttle, no error, no tags.
        assert_eq!(&answer.unwrap()[..], [0, 0, 0, 0, 6, 0, 0, 0]);
        assert!(client.call_frame(Bytes::from_static(b"short")).await.is_err());
    })
    .await;
}

/// What a misbehaving broker sends, and the word that names it.
async fn misbehaves(sends: &[u8], word: &str) {
    let (client, driver, mut peer) =
        pair(Options { response_bytes_max: 1000, ..Options::default() }, 1 << 16);
    alongside(driver, async {
        let broker = async {
            peer.request::<HeartbeatRequest>().await;
            peer.0.write_all(sends).await.unwrap();
        };
        let one = beat(1);
        let (answer, ()) = futures::join!(client.call(4, &one), broker);
        let error = answer.unwrap_err();
        assert!(matches!(error, ClientError::Protocol(_)), "{error}");
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(client.call(4, &one).await, Err(error), "later calls hear the same");
        assert!(client.is_closed());
    })
    .await;
}

#[tokio::test]
async fn a_broker_that_breaks_the_protocol_is_left() {
    misbehaves(&[0, 0, 0, 4, 0, 0, 0, 9], "out of order").await;
    misbehaves(&[0, 0, 3, 0xe9, 0, 0], "1001 bytes").await;
    misbehaves(&[0xff, 0xff, 0xff, 0xff], "-1 bytes").await;
    misbehaves(&[0, 0, 0, 3, 0, 0, 0], "3 bytes").await;
    let (client, driver, mut peer) = pair(Options::default(), 1 << 16);
    alongside(driver, async {
        peer.0.write_all(&[0, 0, 0, 4, 0, 0, 0, 0]).await.unwrap();
        let error = loop {
            tokio::task::yield_now().await;
            if client.is_closed() {
                break client.call(4, &beat(1)).await.unwrap_err();
            }
        };
        assert!(error.to_string().contains("no request"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_does_not_decode_fails_only_its_call() {
    let (client, driver, mut peer) = pair(Options::default(), 1 << 16);
    alongside(driver, async {
        let broker = async {
            let (_, _) = peer.request::<HeartbeatRequest>().await;
            peer.0.write_all(&[0, 0, 0, 6, 0, 0, 0, 0, 0, 1]).await.unwrap();
            let (header, _) = peer.request::<HeartbeatRequest>().await;
            peer.answer_beat(header.correlation_id, 5).await;
        };
        let asks = async {
            assert!(matches!(client.call(4, &beat(1)).await, Err(ClientError::Decode(_))));
            assert_eq!(client.call(4, &beat(1)).await.unwrap().throttle_time_ms, 5);
        };
        futures::join!(asks, broker);
    })
    .await;
}

#[tokio::test]
async fn a_closed_connection_ends_every_call() {
    let (client, driver, peer) = pair(Options { in_flight_max: 1, ..Options::default() }, 1 << 16);
    alongside(driver, async {
        let (one, two) = (beat(1), beat(2));
        let leave = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(peer);
        };
        let (one, two, ()) = futures::join!(client.call(4, &one), client.call(4, &two), leave);
        assert!(matches!(one, Err(ClientError::Closed(_))), "{one:?}");
        assert!(matches!(two, Err(ClientError::Closed(_))), "one that waits for its turn too: {two:?}");
    })
    .await;
}

#[tokio::test]
async fn dropping_every_client_ends_the_driver_and_the_connection() {
    let (client, driver, mut peer) = pair(Options::default(), 1 << 16);
    drop(client.clone());
    drop(client);
    driver.await;
    assert!(peer.frame().await.is_none());
}

#[tokio::test]
async fn dropping_the_driver_ends_the_calls() {
    let (client, driver, _peer) = pair(Options::default(), 1 << 16);
    drop(driver);
    assert!(matches!(client.call(4, &beat(1)).await, Err(ClientError::Closed(_))));
}

#[tokio::test]
async fn an_older_broker_is_asked_again_in_a_version_it_knows() {
    let (client, driver, mut peer) = pair(Options::default(), 1 << 16);
    alongside(driver, async {
        let rows = |version| {
            [(0i16, 3i16, 8i16), (18, 0, version)]
                .map(|(api_key, min_version, max_version)| api_versions_response::ApiVersion {
                    api_key,
                    min_version,
                    max_version,
                })
                .to_vec()
        };
        let broker = async {
            let (header, _) = peer.request::<ApiVersionsRequest>().await;
            assert_eq!(header.api_version, ApiVersionsRequest::MAX);
            let refusal = ApiVersionsResponse { error_code: 35, api_keys: rows(2), ..Default::default() };
            peer.answer(header.correlation_id, ApiKey::ApiVersions, 0, &refusal).await;
            let (header, _) = peer.request::<ApiVersionsRequest>().await;
            assert_eq!(header.api_version, 2);
            let fine = ApiVersionsResponse { api_keys: rows(2), ..Default::default() };
            peer.answer(header.correlation_id, ApiKey::ApiVersions, 2, &fine).await;
        };
        let (versions, ()) = futures::join!(client.api_versions(), broker);
        let versions = versions.unwrap();
        assert_eq!(versions.newest::<ProduceRequest>(), Ok(8));
        assert_eq!(versions.newest_to::<ProduceRequest>(7), Ok(7));
        assert_eq!(versions.newest_to::<ProduceRequest>(2), Err(ClientError::Version("Produce")));
        assert_eq!(versions.newest::<HeartbeatRequest>(), Err(ClientError::Version("Heartbeat")));
    })
    .await;
}
