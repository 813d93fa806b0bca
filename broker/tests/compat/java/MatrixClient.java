import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.zip.CRC32;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsSpec;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.quota.ClientQuotaFilter;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.AppInfoParser;

/** The Java client for the client matrix; it speaks the line protocol of ../README.md. */
public final class MatrixClient {
    private static final long PATIENCE_S = 30;
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final PrintStream ANSWERS = System.out;

    private final String bootstrap;
    private final Admin admin;
    private final Map<String, KafkaProducer<byte[], byte[]>> producers = new HashMap<>();
    private final BlockingQueue<JsonNode> requests = new LinkedBlockingQueue<>();

    private interface Operation {
        Object run(JsonNode request) throws Exception;
    }

    private final Map<String, Operation> operations = new LinkedHashMap<>();

    private MatrixClient(String bootstrap) {
        this.bootstrap = bootstrap;
        this.admin = Admin.create(config());
        operations.put("hello", r -> hello());
        operations.put("create", this::create);
        operations.put("delete", r -> wait(admin.deleteTopics(List.of(text(r, "topic"))).all()));
        operations.put("partitions", r -> wait(admin.createPartitions(
            Map.of(text(r, "topic"), NewPartitions.increaseTo(r.get("count").asInt()))).all()));
        operations.put("produce", this::produce);
        operations.put("consume", this::consume);
        operations.put("read", this::read);
        operations.put("pause", this::pause);
        operations.put("offsets", this::offsets);
        operations.put("committed", this::committed);
        operations.put("commit", this::commit);
        operations.put("member", this::member);
        operations.put("alter", this::alter);
        operations.put("configs", this::configs);
        operations.put("delete_records", this::deleteRecords);
        operations.put("cluster", r -> cluster());
        operations.put("topic", this::topic);
        operations.put("groups", r -> Map.of("groups",
            wait(admin.listGroups().all()).stream().map(GroupListing::groupId).toList()));
        operations.put("group", this::group);
        operations.put("delete_group", r -> wait(admin.deleteConsumerGroups(List.of(text(r, "group"))).all()));
        operations.put("describe_all", this::describeAll);
    }

    public static void main(String[] args) throws Exception {
        MatrixClient client = new MatrixClient(args[0]);
        Thread reader = new Thread(() -> {
            try (BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
                for (String line = in.readLine(); line != null; line = in.readLine()) {
                    client.requests.put(JSON.readTree(line));
                }
            } catch (Exception e) {
                e.printStackTrace();
            }
            System.exit(0);
        });
        reader.setDaemon(true);
        reader.start();
        while (true) {
            client.answer(client.requests.take());
        }
    }

    private void answer(JsonNode request) throws Exception {
        try {
            Object result = operations.get(request.get("op").asText()).run(request);
            emit(Map.of("ok", result == null ? Map.of() : result));
        } catch (Throwable thrown) {
            thrown.printStackTrace();
            Throwable cause = thrown;
            while (cause instanceof ExecutionException && cause.getCause() != null) {
                cause = cause.getCause();
            }
            Errors error = Errors.forException(cause);
            Map<String, Object> answer = new HashMap<>();
            answer.put("error", error == Errors.UNKNOWN_SERVER_ERROR ? null : (int) error.code());
            answer.put("message", String.valueOf(cause));
            emit(answer);
        }
    }

    private static void emit(Map<String, ?> line) throws Exception {
        ANSWERS.println(JSON.writeValueAsString(line));
        ANSWERS.flush();
    }

    private static String text(JsonNode request, String name) {
        return request.hasNonNull(name) ? request.get(name).asText() : null;
    }

    private static <T> T wait(Future<T> future) throws ExecutionException, InterruptedException, TimeoutException {
        return future.get(PATIENCE_S, TimeUnit.SECONDS);
    }

    private Map<String, Object> config() {
        Map<String, Object> config = new HashMap<>();
        config.put("bootstrap.servers", bootstrap);
        return config;
    }

    private static Object hello() {
        return Map.of(
            "version", AppInfoParser.getVersion(),
            "ops", List.of("create", "delete", "partitions", "produce", "consume", "read", "pause", "offsets", "committed",
                "commit", "member", "alter", "configs", "delete_records", "cluster", "topic", "groups", "group",
                "delete_group", "describe_all"),
            "compressions", List.of("none", "gzip", "snappy", "lz4", "zstd"),
            "acks", List.of("all", "1", "0"),
            "assignors", List.of("range", "roundrobin", "sticky", "cooperative-sticky"),
            "idempotent", true,
            "static", true);
    }

    private static Map<String, String> strings(JsonNode object) {
        Map<String, String> map = new HashMap<>();
        if (object != null) {
            object.fields().forEachRemaining(field -> map.put(field.getKey(), field.getValue().asText()));
        }
        return map;
    }

    private Object create(JsonNode r) throws Exception {
        short replication = (short) (r.has("replication") ? r.get("replication").asInt() : -1);
        NewTopic topic = new NewTopic(text(r, "topic"), r.get("partitions").asInt(), replication);
        return wait(admin.createTopics(List.of(topic.configs(strings(r.get("configs"))))).all());
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static List<Object> row(int partition, long offset, byte[] key, byte[] value, long timestamp) {
        CRC32 crc = new CRC32();
        crc.update(value);
        String name = key == null ? "" : new String(key, StandardCharsets.UTF_8);
        return List.of(partition, offset, name, crc.getValue(), timestamp);
    }

    private KafkaProducer<byte[], byte[]> producer(String compression, String acks, boolean idempotent) {
        return producers.computeIfAbsent(compression + acks + idempotent, name -> {
            Map<String, Object> config = config();
            config.put("compression.type", compression);
            config.put("acks", acks);
            config.put("enable.idempotence", idempotent);
            config.put("max.request.size", 5_000_000);
            config.put("max.block.ms", 30_000);
            ByteArraySerializer bytes = new ByteArraySerializer();
            return new KafkaProducer<>(config, bytes, bytes);
        });
    }

    private Object produce(JsonNode r) throws Exception {
        String acks = r.has("acks") ? text(r, "acks") : "all";
        String compression = r.has("compression") ? text(r, "compression") : "none";
        KafkaProducer<byte[], byte[]> producer = producer(compression, acks, r.path("idempotent").asBoolean());
        Integer partition = r.has("partition") ? r.get("partition").asInt() : null;
        String prefix = r.has("prefix") ? text(r, "prefix") : "r";
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (int i = 0; i < r.get("count").asInt(); i++) {
            String key = prefix + "-" + i;
            byte[] value = r.has("size")
                ? bytes("x".repeat(r.get("size").asInt()))
                : bytes(key + "|" + "x".repeat(i * 37 % 1000));
            Long timestamp = r.has("timestamp") ? Long.valueOf(r.get("timestamp").asLong() + 1000L * i) : null;
            byte[] keyBytes = r.path("keyless").asBoolean() ? null : bytes(key);
            ProducerRecord<byte[], byte[]> record =
                new ProducerRecord<>(text(r, "topic"), partition, timestamp, keyBytes, value);
            record.headers().add("n", bytes(Integer.toString(i)));
            records.add(record);
            sent.add(producer.send(record));
        }
        producer.flush();
        List<Object> rows = new ArrayList<>();
        for (int i = 0; i < sent.size(); i++) {
            RecordMetadata at = wait(sent.get(i));
            long offset = at.hasOffset() ? at.offset() : -1;
            rows.add(row(at.partition(), offset, records.get(i).key(), records.get(i).value(), -1));
        }
        return Map.of("records", rows);
    }

    private KafkaConsumer<byte[], byte[]> consumer(String group, Map<String, Object> more) {
        Map<String, Object> config = config();
        if (group != null) {
            config.put("group.id", group);
        }
        config.put("auto.offset.reset", "earliest");
        config.put("enable.auto.commit", false);
        config.put("fetch.max.wait.ms", 100);
        config.putAll(more);
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        return new KafkaConsumer<>(config, bytes, bytes);
    }

    private static List<Object> poll(KafkaConsumer<byte[], byte[]> consumer, int count, long seconds,
                                     Map<TopicPartition, OffsetAndMetadata> next) {
        List<Object> rows = new ArrayList<>();
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
        while (rows.size() < count && System.nanoTime() < deadline) {
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) {
                if (rows.size() == count) {
                    break;
                }
                rows.add(row(record.partition(), record.offset(), record.key(), record.value(), record.timestamp()));
                next.put(new TopicPartition(record.topic(), record.partition()),
                    new OffsetAndMetadata(record.offset() + 1));
            }
        }
        return rows;
    }

    private Object consume(JsonNode r) {
        Map<TopicPartition, OffsetAndMetadata> next = new HashMap<>();
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(text(r, "group"), Map.of())) {
            consumer.subscribe(List.of(text(r, "topic")));
            List<Object> rows = poll(consumer, r.get("count").asInt(), PATIENCE_S, next);
            consumer.commitSync(next);
            return Map.of("records", rows);
        }
    }

    private Object read(JsonNode r) {
        TopicPartition partition = new TopicPartition(text(r, "topic"), r.get("partition").asInt());
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(null, Map.of())) {
            consumer.assign(List.of(partition));
            consumer.seek(partition, r.get("offset").asLong());
            return Map.of("records", poll(consumer, r.get("count").asInt(), PATIENCE_S, new HashMap<>()));
        }
    }

    private Object pause(JsonNode r) {
        TopicPartition paused = new TopicPartition(text(r, "topic"), r.get("partition").asInt());
        List<TopicPartition> wanted = new ArrayList<>(List.of(paused));
        r.get("others").forEach(other -> wanted.add(new TopicPartition(text(r, "topic"), other.asInt())));
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(null, Map.of())) {
            consumer.assign(wanted);
            consumer.seekToBeginning(wanted);
            consumer.pause(List.of(paused));
            int count = r.get("count").asInt();
            List<Object> before = poll(consumer, count * wanted.size(), 2, new HashMap<>());
            consumer.resume(List.of(paused));
            return Map.of("paused", before, "resumed", poll(consumer, count, PATIENCE_S, new HashMap<>()));
        }
    }

    private Object offsets(JsonNode r) throws Exception {
        OffsetSpec spec = switch (text(r, "at")) {
            case "earliest" -> OffsetSpec.earliest();
            case "latest" -> OffsetSpec.latest();
            default -> OffsetSpec.forTimestamp(r.get("at").asLong());
        };
        Map<TopicPartition, OffsetSpec> wanted = new LinkedHashMap<>();
        for (int p = 0; p < r.get("partitions").asInt(); p++) {
            wanted.put(new TopicPartition(text(r, "topic"), p), spec);
        }
        var found = wait(admin.listOffsets(wanted).all());
        return Map.of("offsets", wanted.keySet().stream().map(p -> found.get(p).offset()).toList());
    }

    private Object committed(JsonNode r) throws Exception {
        List<TopicPartition> wanted = new ArrayList<>();
        for (int p = 0; p < r.get("partitions").asInt(); p++) {
            wanted.add(new TopicPartition(text(r, "topic"), p));
        }
        var spec = new ListConsumerGroupOffsetsSpec().topicPartitions(wanted);
        var found = wait(admin.listConsumerGroupOffsets(Map.of(text(r, "group"), spec)).partitionsToOffsetAndMetadata());
        return Map.of("offsets", wanted.stream().map(p -> found.get(p) == null ? -1 : found.get(p).offset()).toList());
    }

    private Object commit(JsonNode r) {
        TopicPartition partition = new TopicPartition(text(r, "topic"), r.get("partition").asInt());
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(text(r, "group"), Map.of())) {
            consumer.assign(List.of(partition));
            consumer.commitSync(Map.of(partition, new OffsetAndMetadata(r.get("offset").asLong(), text(r, "metadata"))));
            return null;
        }
    }

    private static String assignor(String name) {
        String simple = switch (name) {
            case "range" -> "RangeAssignor";
            case "roundrobin" -> "RoundRobinAssignor";
            case "sticky" -> "StickyAssignor";
            default -> "CooperativeStickyAssignor";
        };
        return "org.apache.kafka.clients.consumer." + simple;
    }

    private Object member(JsonNode r) throws Exception {
        Map<String, Object> more = new HashMap<>();
        more.put("session.timeout.ms", r.has("session_ms") ? r.get("session_ms").asInt() : 3000);
        more.put("heartbeat.interval.ms", 300);
        more.put("metadata.max.age.ms", 1000);
        if (r.hasNonNull("assignor")) {
            more.put("partition.assignment.strategy", assignor(text(r, "assignor")));
        }
        if (r.hasNonNull("instance")) {
            more.put("group.instance.id", text(r, "instance"));
        }
        List<Integer> last = null;
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(text(r, "group"), more)) {
            consumer.subscribe(List.of(text(r, "topic")));
            while (requests.isEmpty()) {
                List<String> keys = new ArrayList<>();
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(50))) {
                    keys.add(new String(record.key(), StandardCharsets.UTF_8));
                }
                List<Integer> now = consumer.assignment().stream().map(TopicPartition::partition).sorted().toList();
                if (!now.equals(last)) {
                    last = now;
                    emit(Map.of("event", "assigned", "partitions", now));
                }
                if (!keys.isEmpty()) {
                    emit(Map.of("event", "read", "keys", keys));
                    consumer.commitAsync();
                }
            }
        }
        System.exit(0);
        return null;
    }

    private Object alter(JsonNode r) throws Exception {
        Collection<AlterConfigOp> ops = new ArrayList<>();
        strings(r.get("configs")).forEach((name, value) ->
            ops.add(new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET)));
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, text(r, "topic"));
        return wait(admin.incrementalAlterConfigs(Map.of(topic, ops)).all());
    }

    private Object configs(JsonNode r) throws Exception {
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, text(r, "topic"));
        Map<String, String> found = new HashMap<>();
        wait(admin.describeConfigs(List.of(topic)).all()).get(topic).entries()
            .forEach(entry -> found.put(entry.name(), entry.value()));
        return Map.of("configs", found);
    }

    private Object deleteRecords(JsonNode r) throws Exception {
        TopicPartition partition = new TopicPartition(text(r, "topic"), r.get("partition").asInt());
        var deleted = admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(r.get("before").asLong())));
        return Map.of("low", wait(deleted.lowWatermarks().get(partition)).lowWatermark());
    }

    private static List<Integer> ids(Collection<Node> nodes) {
        return nodes.stream().map(Node::id).toList();
    }

    private Object cluster() throws Exception {
        var found = admin.describeCluster();
        return Map.of("id", wait(found.clusterId()), "brokers", ids(wait(found.nodes())),
            "controller", wait(found.controller()).id(), "topics", wait(admin.listTopics().names()));
    }

    private Object topic(JsonNode r) throws Exception {
        TopicDescription found = wait(admin.describeTopics(List.of(text(r, "topic"))).allTopicNames()).get(text(r, "topic"));
        List<Object> partitions = new ArrayList<>();
        for (TopicPartitionInfo p : found.partitions()) {
            partitions.add(Map.of("leader", p.leader().id(), "replicas", ids(p.replicas()), "isr", ids(p.isr())));
        }
        return Map.of("partitions", partitions);
    }

    private Object group(JsonNode r) throws Exception {
        var found = wait(admin.describeConsumerGroups(List.of(text(r, "group"))).all()).get(text(r, "group"));
        return Map.of("state", found.groupState().name(), "members", found.members().size());
    }

    /** Each of Admin's describing calls, with what it failed with or null. */
    private Object describeAll(JsonNode r) throws Exception {
        String topic = text(r, "topic");
        String group = text(r, "group");
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, "1");
        Map<TopicPartition, OffsetSpec> newest = Map.of(new TopicPartition(topic, 0), OffsetSpec.maxTimestamp());
        Map<String, KafkaFuture<?>> calls = new LinkedHashMap<>();
        calls.put("describeCluster", admin.describeCluster().authorizedOperations());
        calls.put("describeTopics", admin.describeTopics(List.of(topic)).allTopicNames());
        calls.put("describeConfigs of a broker", admin.describeConfigs(List.of(broker)).all());
        calls.put("listConfigResources", admin.listConfigResources().all());
        calls.put("describeLogDirs", admin.describeLogDirs(List.of(1)).allDescriptions());
        calls.put("describeReplicaLogDirs", admin.describeReplicaLogDirs(
            List.of(new org.apache.kafka.common.TopicPartitionReplica(topic, 0, 1))).all());
        calls.put("describeFeatures", admin.describeFeatures().featureMetadata());
        calls.put("describeMetadataQuorum", admin.describeMetadataQuorum().quorumInfo());
        calls.put("describeProducers", admin.describeProducers(List.of(new TopicPartition(topic, 0))).all());
        calls.put("listTransactions", admin.listTransactions().all());
        calls.put("listPartitionReassignments", admin.listPartitionReassignments().reassignments());
        calls.put("describeClientQuotas", admin.describeClientQuotas(ClientQuotaFilter.all()).entities());
        calls.put("listOffsets by max timestamp", admin.listOffsets(newest).all());
        calls.put("listGroups", admin.listGroups().all());
        calls.put("describeConsumerGroups", admin.describeConsumerGroups(List.of(group)).all());
        calls.put("describeClassicGroups", admin.describeClassicGroups(List.of(group)).all());
        Map<String, String> said = new LinkedHashMap<>();
        for (var call : calls.entrySet()) {
            try {
                wait(call.getValue());
            } catch (ExecutionException e) {
                said.put(call.getKey(), String.valueOf(e.getCause()));
            }
        }
        return said;
    }
}
