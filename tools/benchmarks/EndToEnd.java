// One record at a time: send, wait for its acknowledgement, poll until it has come back. What Kafka's EndToEndLatency does,
// with the same client settings, but that tool rounds each latency down to whole milliseconds, which on one machine are 0 or 1.
// Run from source: java -cp "LIBS/*" EndToEnd.java BOOTSTRAP TOPIC RECORDS WARM_UP_RECORDS RECORD_BYTES ACKS
// Prints one line: p50, p99 and mean in microseconds.
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class EndToEnd {
    public static void main(String[] arguments) throws Exception {
        String topic = arguments[1];
        int measured = Integer.parseInt(arguments[2]);
        int warmUp = Integer.parseInt(arguments[3]);
        byte[] value = new byte[Integer.parseInt(arguments[4])];
        Arrays.fill(value, (byte) 'x');
        Properties forConsumer = new Properties();
        forConsumer.put("bootstrap.servers", arguments[0]);
        forConsumer.put("enable.auto.commit", "false");
        forConsumer.put("auto.offset.reset", "latest");
        forConsumer.put("fetch.max.wait.ms", "0");
        Properties forProducer = new Properties();
        forProducer.put("bootstrap.servers", arguments[0]);
        forProducer.put("linger.ms", "0");
        forProducer.put("acks", arguments[5]);
        long[] nanos = new long[measured];
        try (var consumer = new KafkaConsumer<>(forConsumer, new ByteArrayDeserializer(), new ByteArrayDeserializer());
                var producer = new KafkaProducer<>(forProducer, new ByteArraySerializer(), new ByteArraySerializer())) {
            var partition = new TopicPartition(topic, 0);
            consumer.assign(List.of(partition));
            consumer.seekToEnd(List.of(partition));
            consumer.position(partition);
            for (int index = -warmUp; index < measured; index++) {
                long began = System.nanoTime();
                producer.send(new ProducerRecord<>(topic, 0, null, value)).get();
                ConsumerRecords<byte[], byte[]> got = consumer.poll(Duration.ofMinutes(1));
                if (got.count() != 1) throw new IllegalStateException(got.count() + " records after one was sent");
                if (index >= 0) nanos[index] = System.nanoTime() - began;
            }
        }
        Arrays.sort(nanos);
        double mean = Arrays.stream(nanos).average().orElse(0);
        System.out.printf("p50 %.1f p99 %.1f mean %.1f%n",
            nanos[measured / 2] / 1e3, nanos[(int) (measured * 0.99)] / 1e3, mean / 1e3);
    }
}
