// Transactional producers that go through a proxy which holds requests back: what each wrote, and how it ended.
// Run from source: java -cp "LIBS/*" Late.java BOOTSTRAP TOPIC PARTITIONS PRODUCERS TRANSACTIONS SEED
// Each producer has a thread, a transactional id, a client id and a group of the same name, and commits or aborts
// TRANSACTIONS transactions, each with some records and its number for an offset. One JSON list a line, written before
// the step that it names: ["begin", name, transaction, [[partition, value], ...]], ["committing", name, transaction, offset],
// then ["committed", name, transaction, offset], ["aborted", name, transaction], or ["anew", name, transaction, why]
// when the producer could not go on and another one takes its place, and ["offset", name, offset] as the group has it.
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Random;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsOptions;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringSerializer;

public class Late {
    private static final int RECORDS_MAX = 6;
    private static final int ANEW_MAX = 200;

    private final String bootstrap;
    private final String topic;
    private final int partitions;
    private final String name;
    private final Random chance;
    private final Admin admin;
    private KafkaProducer<String, String> producer;
    private int anew = 0;

    private Late(String bootstrap, String topic, int partitions, String name, long seed) {
        this.bootstrap = bootstrap;
        this.topic = topic;
        this.partitions = partitions;
        this.name = name;
        this.chance = new Random(seed);
        this.admin = Admin.create(settings());
        begin();
    }

    public static void main(String[] arguments) throws Exception {
        int producers = Integer.parseInt(arguments[3]);
        ExecutorService threads = Executors.newFixedThreadPool(producers);
        List<Future<?>> running = new ArrayList<>();
        for (int number = 0; number < producers; number++) {
            String name = "late" + number;
            long seed = Long.parseLong(arguments[5]) * 1000 + number;
            running.add(threads.submit(() -> {
                var one = new Late(arguments[0], arguments[1], Integer.parseInt(arguments[2]), name, seed);
                for (int count = 1; count <= Integer.parseInt(arguments[4]); count++) one.transact(count);
                one.producer.close();
                one.admin.close();
                return null;
            }));
        }
        for (var each : running) each.get();
        threads.shutdown();
    }

    private static synchronized void tell(String line) {
        System.out.println(line);
        System.out.flush();
    }

    private Properties settings() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("client.id", name);
        settings.put("request.timeout.ms", "2000");
        settings.put("retry.backoff.ms", "5");
        settings.put("reconnect.backoff.ms", "5");
        settings.put("reconnect.backoff.max.ms", "50");
        settings.put("enable.metrics.push", "false");
        return settings;
    }

    private void begin() {
        Properties settings = settings();
        settings.put("transactional.id", name);
        settings.put("delivery.timeout.ms", "60000");
        settings.put("max.block.ms", "120000");
        producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
        producer.initTransactions();
    }

    private void transact(int count) throws Exception {
        String transaction = name + "#" + count;
        boolean commit = chance.nextInt(4) > 0;
        boolean offsets = chance.nextInt(2) > 0;
        List<ProducerRecord<String, String>> records = new ArrayList<>();
        StringBuilder told = new StringBuilder();
        for (int number = 0; number <= chance.nextInt(RECORDS_MAX); number++) {
            int partition = chance.nextInt(partitions);
            String value = transaction + "/" + number;
            records.add(new ProducerRecord<>(topic, partition, null, value));
            told.append(number == 0 ? "" : ", ").append(String.format("[%d, \"%s\"]", partition, value));
        }
        tell(String.format("[\"begin\", \"%s\", \"%s\", [%s]]", name, transaction, told));
        try {
            producer.beginTransaction();
            for (var each : records) producer.send(each);
            if (offsets) {
                var places = Map.of(new TopicPartition(topic, 0), new OffsetAndMetadata(count));
                producer.sendOffsetsToTransaction(places, new ConsumerGroupMetadata(name));
            }
            if (commit) {
                tell(String.format("[\"committing\", \"%s\", \"%s\", %d]", name, transaction, offsets ? count : -1));
                producer.commitTransaction();
                tell(String.format("[\"committed\", \"%s\", \"%s\", %d]", name, transaction, offsets ? count : -1));
            } else {
                producer.abortTransaction();
                tell(String.format("[\"aborted\", \"%s\", \"%s\"]", name, transaction));
            }
        } catch (KafkaException failure) {
            giveUp(transaction, failure);
        }
        if (offsets) tell(String.format("[\"offset\", \"%s\", %d]", name, committed()));
    }

    private void giveUp(String transaction, KafkaException failure) {
        String why = failure.toString().replace("\\", "/").replace("\"", "'").replace("\n", " ");
        if (++anew > ANEW_MAX) throw failure;
        producer.close(java.time.Duration.ZERO);
        begin();  // which aborts what is open, unless its commit was decided
        tell(String.format("[\"anew\", \"%s\", \"%s\", \"%s\"]", name, transaction, why));
    }

    private long committed() throws Exception {
        var options = new ListConsumerGroupOffsetsOptions().requireStable(true);
        var found = admin.listConsumerGroupOffsets(name, options).partitionsToOffsetAndMetadata().get();
        var place = found.get(new TopicPartition(topic, 0));
        return place == null ? -1 : place.offset();
    }
}
