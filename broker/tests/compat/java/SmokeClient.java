import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The Java client with its default settings for the smoke test: create, produce and consume, each one process.
 * It speaks the protocol of the driver (see ../README.md): arguments in, one line of text a record out.
 */
public final class SmokeClient {
    private static final Duration PATIENCE = Duration.ofSeconds(60);

    private final Map<String, String> options = new HashMap<>();
    private final StringBuilder lines = new StringBuilder();

    public static void main(String[] args) throws Exception {
        if (args.length == 0) {
            throw new IllegalArgumentException("usage: SmokeClient create|produce|consume --bootstrap ...");
        }
        SmokeClient client = new SmokeClient();
        for (int i = 1; i + 1 < args.length; i += 2) {
            client.options.put(args[i].substring(2), args[i + 1]);
        }
        switch (args[0]) {
            case "create" -> client.create();
            case "produce" -> client.produce();
            case "consume" -> client.consume();
            default -> throw new IllegalArgumentException("no such command: " + args[0]);
        }
        System.out.print(client.lines);
    }

    private int number(String option) {
        return Integer.parseInt(options.get(option));
    }

    private Map<String, Object> config() {
        Map<String, Object> config = new HashMap<>();
        config.put("bootstrap.servers", options.get("bootstrap"));
        return config;
    }

    private void line(int partition, long offset, byte[] key, byte[] value) {
        CRC32 crc = new CRC32();
        crc.update(value);
        String text = new String(key, StandardCharsets.UTF_8);
        lines.append(partition).append(' ').append(offset).append(' ').append(text).append(' ');
        lines.append(crc.getValue()).append('\n');
    }

    private void create() throws Exception {
        NewTopic topic = new NewTopic(options.get("topic"), Optional.of(number("partitions")), Optional.empty());
        try (Admin admin = Admin.create(config())) {
            admin.createTopics(List.of(topic)).all().get(PATIENCE.toSeconds(), TimeUnit.SECONDS);
        }
    }

    private void produce() throws Exception {
        Map<String, Object> config = config();
        config.put("compression.type", options.get("compression"));
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        ByteArraySerializer bytes = new ByteArraySerializer();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(config, bytes, bytes)) {
            for (int i = 0; i < number("count"); i++) {
                String key = options.get("prefix") + "-" + i;
                byte[] value = (key + "|" + "x".repeat(i * 37 % 1000)).getBytes(StandardCharsets.UTF_8);
                ProducerRecord<byte[], byte[]> record =
                    new ProducerRecord<>(options.get("topic"), key.getBytes(StandardCharsets.UTF_8), value);
                record.headers().add("n", Integer.toString(i).getBytes(StandardCharsets.UTF_8));
                records.add(record);
                sent.add(producer.send(record));
            }
            producer.flush();
            for (int i = 0; i < sent.size(); i++) {
                RecordMetadata at = sent.get(i).get(PATIENCE.toSeconds(), TimeUnit.SECONDS);
                line(at.partition(), at.offset(), records.get(i).key(), records.get(i).value());
            }
        }
    }

    /** Reads exactly `count` records in a group and commits what it read, no more. */
    private void consume() {
        Map<String, Object> config = config();
        config.put("group.id", options.get("group"));
        config.put("auto.offset.reset", "earliest");
        config.put("enable.auto.commit", false);
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        int count = number("count");
        int read = 0;
        long deadline = System.nanoTime() + PATIENCE.toNanos();
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config, bytes, bytes)) {
            consumer.subscribe(List.of(options.get("topic")));
            Map<TopicPartition, OffsetAndMetadata> next = new HashMap<>();
            while (read < count) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException("read " + read + " of " + count + " records in " + PATIENCE);
                }
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                    if (read == count) {
                        break;
                    }
                    line(record.partition(), record.offset(), record.key(), record.value());
                    TopicPartition partition = new TopicPartition(record.topic(), record.partition());
                    next.put(partition, new OffsetAndMetadata(record.offset() + 1));
                    read++;
                }
            }
            consumer.commitSync(next);
        }
    }
}
