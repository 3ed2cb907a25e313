// Small transactions, as many as go: each of several producers, in a thread of its own, sends a few records and commits, again and again.
// Run from source: java -cp "LIBS/*" Transactions.java BOOTSTRAP TOPIC PRODUCERS WARM_UP TRANSACTIONS RECORDS RECORD_BYTES
// WARM_UP and TRANSACTIONS are for each producer, and count those that were committed. Prints one line: transactions a second
// of all together, p50 and p99 in microseconds from begin to the answered commit, without the warm-up, and how many producers
// were replaced. A producer can fail with InvalidTxnStateException: a race inside of the Java client, met on Apache Kafka
// too. Another one then takes its place, with the same transactional id; what that takes is part of the time.
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.errors.InvalidTxnStateException;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Transactions {
    private static final int REPLACED_MAX = 20;  // by one thread: more is no race

    private final String bootstrap;
    private final String topic;
    private final int records;
    private final byte[] value;
    private final String id = "bench-" + UUID.randomUUID();
    private KafkaProducer<byte[], byte[]> producer;
    private int replaced = 0;

    private Transactions(String bootstrap, String topic, int records, byte[] value) {
        this.bootstrap = bootstrap;
        this.topic = topic;
        this.records = records;
        this.value = value;
        begin();
    }

    private record Span(long began, long ended, int replaced) { }

    public static void main(String[] arguments) throws Exception {
        int producers = Integer.parseInt(arguments[2]);
        int warmUp = Integer.parseInt(arguments[3]);
        int measured = Integer.parseInt(arguments[4]);
        int records = Integer.parseInt(arguments[5]);
        byte[] value = new byte[Integer.parseInt(arguments[6])];
        Arrays.fill(value, (byte) 'x');
        long[] nanos = new long[producers * measured];
        var warm = new CyclicBarrier(producers);
        ExecutorService threads = Executors.newFixedThreadPool(producers);
        var running = new ArrayList<Future<Span>>();
        for (int number = 0; number < producers; number++) {
            int first = number * measured;
            running.add(threads.submit(() -> {
                try {
                    var one = new Transactions(arguments[0], arguments[1], records, value);
                    for (int index = 0; index < warmUp; index++) one.commitOne();
                    warm.await();
                    long began = System.nanoTime();
                    for (int index = 0; index < measured; index++) nanos[first + index] = one.commitOne();
                    long ended = System.nanoTime();
                    one.producer.close();
                    return new Span(began, ended, one.replaced);
                } catch (Throwable failure) {  // or the others would wait for this one at the barrier
                    failure.printStackTrace();
                    Runtime.getRuntime().halt(1);
                    throw failure;
                }
            }));
        }
        long began = Long.MAX_VALUE;
        long ended = Long.MIN_VALUE;
        int replaced = 0;
        for (var each : running) {
            began = Math.min(began, each.get().began());
            ended = Math.max(ended, each.get().ended());
            replaced += each.get().replaced();
        }
        threads.shutdown();
        Arrays.sort(nanos);
        System.out.printf("rate %.2f p50 %.1f p99 %.1f replaced %d%n", nanos.length / ((ended - began) / 1e9),
            nanos[nanos.length / 2] / 1e3, nanos[(int) (nanos.length * 0.99)] / 1e3, replaced);
    }

    private void begin() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("transactional.id", id);
        producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
        producer.initTransactions();
    }

    /** Commits one transaction, by another producer if this one fails; the nanoseconds of the one that was committed. */
    private long commitOne() {
        while (true) {
            long from = System.nanoTime();
            try {
                producer.beginTransaction();
                for (int index = 0; index < records; index++) producer.send(new ProducerRecord<>(topic, value));
                producer.commitTransaction();
                return System.nanoTime() - from;
            } catch (KafkaException failure) {
                if (!isRace(failure) || ++replaced > REPLACED_MAX) throw failure;
                System.err.println("replaced: " + failure);
                producer.close();
                begin();
            }
        }
    }

    private static boolean isRace(Throwable failure) {
        for (Throwable each = failure; each != null; each = each.getCause()) {
            if (each instanceof InvalidTxnStateException) return true;
        }
        return false;
    }
}
