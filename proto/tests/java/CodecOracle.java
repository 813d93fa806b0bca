import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.message.ApiMessageType;
import org.apache.kafka.common.protocol.ApiKeys;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;

/**
 * What Apache Kafka's own client says about the protocol, for our codec's tests to compare with.
 * "echo" reads lines "NAME VERSION HEX" and answers each with the bytes it writes after reading those;
 * "facts NAME..." prints every field of the named messages; "codes" prints errors, keys and headers.
 */
public class CodecOracle {
    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "echo" -> echo();
            case "facts" -> {
                for (int i = 1; i < args.length; i++) {
                    facts(args[i]);
                }
            }
            case "codes" -> codes();
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    static void echo() throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        StringBuilder out = new StringBuilder();
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ", -1);
            String answer;
            try {
                short version = Short.parseShort(words[1]);
                ByteBuffer bytes = ByteBuffer.wrap(HexFormat.of().parseHex(words[2]));
                Message message = blank(words[0]);
                message.read(new ByteBufferAccessor(bytes), version);
                if (bytes.hasRemaining()) {
                    throw new IllegalStateException(bytes.remaining() + " bytes left over");
                }
                ObjectSerializationCache cache = new ObjectSerializationCache();
                ByteBuffer written = ByteBuffer.allocate(message.size(cache, version));
                message.write(new ByteBufferAccessor(written), cache, version);
                answer = HexFormat.of().formatHex(written.array(), 0, written.position());
            } catch (Exception | StackOverflowError failure) {
                answer = "error " + failure;
            }
            out.append(answer.replace('\n', ' ')).append('\n');
        }
        System.out.print(out);
    }

    /** A message by its schema's name, wherever its class is. */
    static Message blank(String name) throws Exception {
        for (ApiMessageType type : ApiMessageType.values()) {
            if (name.equals(type.name + "Request")) {
                return type.newRequest();
            }
            if (name.equals(type.name + "Response")) {
                return type.newResponse();
            }
        }
        String[] homes = {"common.message", "coordinator.group.generated", "coordinator.transaction.generated"};
        for (String home : homes) {
            try {
                return (Message) Class.forName("org.apache.kafka." + home + "." + name)
                    .getDeclaredConstructor().newInstance();
            } catch (ClassNotFoundException next) {
                continue;
            }
        }
        throw new IllegalArgumentException("no class for " + name);
    }

    record Range(int low, int high) {
        static Range parse(JsonNode node) {
            String text = node == null ? "none" : node.asText();
            if (text.equals("none")) {
                return new Range(0, -1);
            }
            if (text.endsWith("+")) {
                return new Range(Integer.parseInt(text.substring(0, text.length() - 1)), Short.MAX_VALUE);
            }
            String[] ends = text.split("-");
            return new Range(Integer.parseInt(ends[0]), Integer.parseInt(ends[ends.length - 1]));
        }

        Range and(Range other) {
            return new Range(Math.max(low, other.low), Math.min(high, other.high));
        }

        boolean isEmpty() {
            return low > high;
        }

        @Override
        public String toString() {
            return isEmpty() ? "-" : low + "-" + high;
        }
    }

    static final ObjectMapper JSON = new ObjectMapper().configure(JsonParser.Feature.ALLOW_COMMENTS, true);

    static JsonNode schema(String name) throws Exception {
        try (InputStream in = CodecOracle.class.getResourceAsStream("/common/message/" + name + ".json")) {
            return JSON.readTree(in);
        }
    }

    static void facts(String name) throws Exception {
        JsonNode root = schema(name);
        JsonNode versioned = name.endsWith("Response") ? schema(name.replaceAll("Response$", "Request")) : root;
        Range valid = Range.parse(versioned.get("validVersions"));
        if (versioned.path("latestVersionUnstable").asBoolean(false)) {
            valid = new Range(valid.low, valid.high - 1);
        }
        Range flexible = Range.parse(root.get("flexibleVersions")).and(valid);
        System.out.println(name + " " + valid + " flexible " + flexible);
        Map<String, JsonNode> structs = new HashMap<>();
        for (JsonNode common : root.path("commonStructs")) {
            structs.put(common.get("name").asText(), common);
        }
        collect(root, structs);
        members(name, root, valid, structs);
    }

    static void collect(JsonNode parent, Map<String, JsonNode> structs) {
        for (JsonNode field : parent.path("fields")) {
            if (field.has("fields")) {
                structs.put(field.get("type").asText().replace("[]", ""), field);
                collect(field, structs);
            }
        }
    }

    static void members(String path, JsonNode parent, Range outer, Map<String, JsonNode> structs) {
        for (JsonNode field : parent.path("fields")) {
            JsonNode versions = field.has("versions") ? field.get("versions") : field.get("taggedVersions");
            Range present = Range.parse(versions).and(outer);
            if (present.isEmpty()) {
                continue;
            }
            String type = field.get("type").asText();
            String element = type.replace("[]", "");
            String name = path + "/" + snake(field.get("name").asText());
            String tag = field.has("tag") ? field.get("tag").asText() : "-";
            Range nullable = Range.parse(field.get("nullableVersions")).and(present);
            System.out.println(name + " " + type + " " + present + " nullable " + nullable + " tag " + tag
                + " default " + initial(field.path("default").asText("")));
            if (structs.containsKey(element)) {
                members(name, structs.get(element), present, structs);
            }
        }
    }

    static String initial(String written) {
        if (written.startsWith("0x")) {
            return Long.decode(written).toString();
        }
        return written.isEmpty() || written.equals("0") || written.equals("false") ? "-" : written;
    }

    static String snake(String name) {
        return name.replaceAll("([a-z0-9])([A-Z])", "$1_$2").replaceAll("([A-Z])([A-Z][a-z])", "$1_$2").toLowerCase();
    }

    static void codes() {
        for (Errors error : Errors.values()) {
            boolean retriable = error.exception() instanceof RetriableException;
            System.out.println("error " + error.code() + " " + error.name() + " " + retriable);
        }
        for (ApiKeys key : ApiKeys.clientApis()) {
            short oldest = key.oldestVersion();
            short latest = key.latestVersion(false);
            System.out.println("api " + key.id + " " + key.messageType.name + " " + oldest + "-" + latest);
            for (short v = oldest; v <= latest; v++) {
                System.out.println("header " + key.id + " " + v + " " + key.requestHeaderVersion(v) + " "
                    + key.responseHeaderVersion(v));
            }
        }
    }
}
