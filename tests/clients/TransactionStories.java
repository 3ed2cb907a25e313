// What Java's transactional producer and consumers must see, story by story; the first that is told otherwise ends it with an error.
// Run from source: java -cp "LIBS/*" TransactionStories.java BOOTSTRAP PREFIX
// PREFIX begins the names of the topics, which are made here, of ids and of groups. Prints the name of each story that was told.
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.InvalidTxnStateException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class TransactionStories {
    private static final Duration PATIENCE = Duration.ofSeconds(60);
    private static String bootstrap;
    private static String prefix;

    public static void main(String[] arguments) {
        bootstrap = arguments[0];
        prefix = arguments[1];
        try {
            tell();
        } catch (Throwable problem) { // Java 17 loses those of others' threads when it runs from source
            problem.printStackTrace();
            System.exit(1);
        }
    }

    private static void tell() throws Exception {
        abortAndCommit();
        fencing();
        timeout();
        readProcessWrite("classic");
        readProcessWrite("consumer");
        staleMember();
    }

    private static void abortAndCommit() throws Exception {
        String topic = topic("abort", 2);
        try (var producer = producer("abort", 60_000)) {
            producer.initTransactions();
            for (int number = 0; number < 20; number++) {
                producer.beginTransaction();
                producer.send(new ProducerRecord<>(topic, number % 2, null, "" + number));
                if (number % 3 == 0) {
                    producer.flush();
                    producer.abortTransaction();
                } else producer.commitTransaction();
            }
            producer.beginTransaction();
            producer.commitTransaction();
            producer.beginTransaction();
            producer.abortTransaction();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(topic, 0, null, "open")).get();
            var committed = values(topic, 2, "read_committed");
            check(committed.size() == 13 && !committed.contains("0") && !committed.contains("open"), "read " + committed);
            var all = values(topic, 2, "read_uncommitted");
            check(all.size() == 21, "read uncommitted " + all);
            producer.abortTransaction();
        }
        System.out.println("abortAndCommit");
    }

    private static void fencing() throws Exception {
        String topic = topic("fencing", 1);
        try (var zombie = producer("fencing", 60_000); var heir = producer("fencing", 60_000)) {
            zombie.initTransactions();
            zombie.beginTransaction();
            zombie.send(new ProducerRecord<>(topic, "zombie")).get();
            heir.initTransactions();
            expect(() -> {
                zombie.send(new ProducerRecord<>(topic, "late"));
                zombie.commitTransaction();
            }, ProducerFencedException.class, InvalidProducerEpochException.class);
            heir.beginTransaction();
            heir.send(new ProducerRecord<>(topic, "heir"));
            heir.commitTransaction();
        }
        check(values(topic, 1, "read_committed").equals(List.of("heir")), "the zombie's records are read");
        System.out.println("fencing");
    }

    private static void timeout() throws Exception {
        String topic = topic("timeout", 1);
        try (var slow = producer("timeout", 1_000); var plain = producer(null, 0)) {
            slow.initTransactions();
            slow.beginTransaction();
            slow.send(new ProducerRecord<>(topic, "slow")).get();
            plain.send(new ProducerRecord<>(topic, "behind")).get();
            try (var consumer = consumer("timeout", "classic", "read_committed")) {
                consumer.assign(List.of(new TopicPartition(topic, 0)));
                consumer.seekToBeginning(consumer.assignment());
                check(poll(consumer, 1).equals(List.of("behind")), "the timeout aborts nothing");
            }
            expect(slow::commitTransaction,
                ProducerFencedException.class, InvalidProducerEpochException.class, InvalidTxnStateException.class);
        }
        System.out.println("timeout");
    }

    private static void readProcessWrite(String protocol) throws Exception {
        String source = topic("source-" + protocol, 2);
        String target = topic("target-" + protocol, 2);
        String group = prefix + "-group-" + protocol;
        try (var plain = producer(null, 0)) {
            for (int number = 0; number < 100; number++) plain.send(new ProducerRecord<>(source, number % 2, null, "" + number));
        }
        try (var consumer = consumer(group, protocol, "read_committed"); var producer = producer(group, 60_000)) {
            producer.initTransactions();
            consumer.subscribe(List.of(source));
            for (int done = 0, round = 0; done < 100; ) {
                var records = consumer.poll(PATIENCE);
                if (records.isEmpty()) continue;
                var before = new HashMap<TopicPartition, Long>();
                var after = new HashMap<TopicPartition, OffsetAndMetadata>();
                producer.beginTransaction();
                for (var record : records) {
                    var place = new TopicPartition(record.topic(), record.partition());
                    before.putIfAbsent(place, record.offset());
                    after.put(place, new OffsetAndMetadata(record.offset() + 1));
                    producer.send(new ProducerRecord<>(target, record.partition(), null, record.value()));
                }
                producer.sendOffsetsToTransaction(after, consumer.groupMetadata());
                if (round++ % 2 == 0) {
                    producer.flush();
                    producer.abortTransaction();
                    check(consumer.committed(after.keySet()).values().stream().allMatch(
                        each -> each == null || before.containsValue(each.offset())), "offsets of an aborted transaction count");
                    before.forEach(consumer::seek);
                } else {
                    producer.commitTransaction();
                    done += records.count();
                }
            }
            var ends = consumer.committed(Set.of(new TopicPartition(source, 0), new TopicPartition(source, 1)));
            check(ends.values().stream().allMatch(each -> each.offset() == 50), "committed " + ends);
        }
        var found = new ArrayList<>(values(target, 2, "read_committed"));
        check(found.size() == 100 && Set.copyOf(found).size() == 100, protocol + ": read " + found.size());
        System.out.println("readProcessWrite " + protocol);
    }

    private static void staleMember() throws Exception {
        String source = topic("stale", 1);
        String group = prefix + "-stale";
        try (var producer = producer(group, 60_000)) {
            producer.initTransactions();
            Map<TopicPartition, OffsetAndMetadata> offsets = Map.of(new TopicPartition(source, 0), new OffsetAndMetadata(7));
            var consumer = consumer(group, "classic", "read_committed");
            consumer.subscribe(List.of(source));
            while (consumer.assignment().isEmpty()) consumer.poll(Duration.ofMillis(100));
            var member = consumer.groupMetadata();
            consumer.close();
            producer.beginTransaction();
            expect(() -> {
                producer.sendOffsetsToTransaction(offsets, member);
                producer.commitTransaction();
            }, org.apache.kafka.clients.consumer.CommitFailedException.class);
            producer.abortTransaction();
            try (var looking = consumer(group, "classic", "read_committed")) {
                check(looking.committed(offsets.keySet()).values().stream().allMatch(each -> each == null), "a member that left commits");
            }
        }
        System.out.println("staleMember");
    }

    private static void expect(Runnable step, Class<?>... kinds) {
        try {
            step.run();
        } catch (KafkaException problem) {
            for (Throwable each = problem; each != null; each = each.getCause())
                for (Class<?> kind : kinds) if (kind.isInstance(each)) return;
            throw problem;
        }
        throw new IllegalStateException("nothing was refused where " + List.of(kinds) + " should come");
    }

    private static void check(boolean holds, String otherwise) {
        if (!holds) throw new IllegalStateException(otherwise);
    }

    private static String topic(String name, int partitions) throws Exception {
        String topic = prefix + "-" + name;
        try (var admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
        }
        return topic;
    }

    private static Producer<String, String> producer(String id, int timeoutMs) {
        var settings = new HashMap<String, Object>(Map.of("bootstrap.servers", bootstrap));
        if (id != null) {
            settings.put("transactional.id", id.startsWith(prefix) ? id : prefix + "-" + id);
            settings.put("transaction.timeout.ms", timeoutMs);
        }
        return new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
    }

    private static Consumer<String, String> consumer(String group, String protocol, String isolation) {
        return new KafkaConsumer<>(Map.of("bootstrap.servers", bootstrap, "group.id", group, "group.protocol", protocol,
            "isolation.level", isolation, "auto.offset.reset", "earliest", "enable.auto.commit", false, "max.poll.records", 20),
            new StringDeserializer(), new StringDeserializer());
    }

    private static List<String> poll(Consumer<String, String> consumer, int count) {
        var found = new ArrayList<String>();
        long end = System.nanoTime() + PATIENCE.toNanos();
        while (found.size() < count && System.nanoTime() < end)
            consumer.poll(Duration.ofMillis(100)).forEach(record -> found.add(record.value()));
        return found;
    }

    private static List<String> values(String topic, int partitions, String isolation) {
        try (var consumer = consumer(prefix + "-values", "classic", isolation)) {
            var places = new ArrayList<TopicPartition>();
            for (int index = 0; index < partitions; index++) places.add(new TopicPartition(topic, index));
            consumer.assign(places);
            consumer.seekToBeginning(places);
            var ends = consumer.endOffsets(places);
            var found = new ArrayList<String>();
            while (places.stream().anyMatch(place -> consumer.position(place) < ends.get(place)))
                consumer.poll(Duration.ofMillis(100)).forEach(record -> found.add(record.value()));
            return found;
        }
    }
}
