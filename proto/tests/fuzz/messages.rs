//! Every request, every response, the header before them and the blobs inside them: decoding never
//! panics, and what decodes can be written so that it decodes to the same again.

use bytes::Bytes;
use tidemark_proto::kafka::api::ApiKey;
use tidemark_proto::kafka::frame;
use tidemark_proto::kafka::internal::*;
use tidemark_proto::kafka::messages::*;
use tidemark_proto::kafka::wire::{DecodeError, Decoder, Message, Request};

use super::mutate::{Random, mutate};

/// Inputs longer than this teach nothing new.
const INPUT_MAX: usize = 4096;
/// Inputs kept for each message.
const POOL_MAX: usize = 64;

/// One message that bytes from outside may claim to be.
pub struct Target {
    /// The API whose request this is.
    pub key: Option<ApiKey>,
    min: i16,
    max: i16,
    /// Decodes, writes what was read, and answers those bytes.
    again: fn(Bytes, i16) -> Result<Bytes, DecodeError>,
    /// Inputs that decoded, by turns replaced.
    pool: Vec<(Bytes, i16)>,
}

impl Target {
    fn of<M: Message>(key: Option<ApiKey>) -> Target {
        Target { key, min: M::MIN, max: M::MAX, again: again::<M>, pool: seeds::<M>() }
    }
}

fn again<M: Message>(bytes: Bytes, version: i16) -> Result<Bytes, DecodeError> {
    let message = M::from_bytes(bytes, version)?;
    Ok(message.to_bytes(version).expect("what was read can be written"))
}

/// The defaults, in every version that can carry them.
fn seeds<M: Message>() -> Vec<(Bytes, i16)> {
    (M::MIN..=M::MAX).filter_map(|version| Some((M::default().to_bytes(version).ok()?, version))).collect()
}

fn both_directions<R: Request>() -> [Target; 2] {
    [Target::of::<R>(Some(R::KEY)), Target::of::<R::Response>(None)]
}

macro_rules! all {
    (requests [$($request:ident,)*] inside [$($inside:ident,)*]) => {
        /// Every message there is; a test holds the requests against the codec's own table.
        pub fn targets() -> Vec<Target> {
            let mut all = Vec::new();
            $(all.extend(both_directions::<$request>());)*
            $(all.push(Target::of::<$inside>(None));)*
            all
        }
    };
}

all! {
    requests [
    ProduceRequest,
    FetchRequest,
    ListOffsetsRequest,
    MetadataRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
    FindCoordinatorRequest,
    JoinGroupRequest,
    HeartbeatRequest,
    LeaveGroupRequest,
    SyncGroupRequest,
    DescribeGroupsRequest,
    ListGroupsRequest,
    SaslHandshakeRequest,
    ApiVersionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    DeleteRecordsRequest,
    InitProducerIdRequest,
    OffsetForLeaderEpochRequest,
    AddPartitionsToTxnRequest,
    AddOffsetsToTxnRequest,
    EndTxnRequest,
    WriteTxnMarkersRequest,
    TxnOffsetCommitRequest,
    DescribeAclsRequest,
    CreateAclsRequest,
    DeleteAclsRequest,
    DescribeConfigsRequest,
    AlterConfigsRequest,
    AlterReplicaLogDirsRequest,
    DescribeLogDirsRequest,
    SaslAuthenticateRequest,
    CreatePartitionsRequest,
    DeleteGroupsRequest,
    ElectLeadersRequest,
    IncrementalAlterConfigsRequest,
    AlterPartitionReassignmentsRequest,
    ListPartitionReassignmentsRequest,
    OffsetDeleteRequest,
    DescribeClientQuotasRequest,
    AlterClientQuotasRequest,
    DescribeUserScramCredentialsRequest,
    AlterUserScramCredentialsRequest,
    DescribeQuorumRequest,
    UpdateFeaturesRequest,
    DescribeClusterRequest,
    DescribeProducersRequest,
    UnregisterBrokerRequest,
    DescribeTransactionsRequest,
    ListTransactionsRequest,
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupDescribeRequest,
    GetTelemetrySubscriptionsRequest,
    PushTelemetryRequest,
    ListConfigResourcesRequest,
    DescribeTopicPartitionsRequest,
    ]
    inside [
    ConsumerProtocolSubscription,
    ConsumerProtocolAssignment,
    OffsetCommitKey,
    OffsetCommitValue,
    GroupMetadataKey,
    GroupMetadataValue,
    TransactionLogKey,
    TransactionLogValue,
    ]
}

/// One input for one message: grown from what decoded before, or thrown together.
pub fn round(random: &mut Random, targets: &mut [Target]) {
    let which = random.below(targets.len());
    let target = &mut targets[which];
    let span = (target.max - target.min + 1) as usize;
    let (mut bytes, mut version) = match target.pool.len() {
        0 => (Vec::new(), target.min),
        count => {
            let (bytes, version) = &target.pool[random.below(count)];
            (bytes.to_vec(), *version)
        }
    };
    if random.one_in(4) {
        version = target.min + random.below(span) as i16;
    }
    if random.one_in(8) {
        bytes = rubbish(random);
    }
    mutate(random, &mut bytes, &rubbish_seeded(version));
    bytes.truncate(INPUT_MAX);
    let bytes = Bytes::from(bytes);
    let _ = frame::decode_request_header(&mut Decoder::new(bytes.clone()));
    let Ok(written) = (target.again)(bytes, version) else { return };
    let twice = (target.again)(written.clone(), version).expect("what was written can be read");
    assert_eq!(twice, written, "version {version}");
    match target.pool.len() {
        full if full >= POOL_MAX => target.pool[random.below(full)] = (written, version),
        _ => target.pool.push((written, version)),
    }
}

/// Bytes such as lengths, counts and text are made of.
fn rubbish(random: &mut Random) -> Vec<u8> {
    let len = random.below(200);
    (0..len)
        .map(|_| match random.below(6) {
            0 => random.word() as u8,
            1 => 0xff,
            2 => b'a',
            3 => 1 + random.below(4) as u8,
            _ => 0,
        })
        .collect()
}

fn rubbish_seeded(version: i16) -> Vec<u8> {
    rubbish(&mut Random::new(version as u64))
}
