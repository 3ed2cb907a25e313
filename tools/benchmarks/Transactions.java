// Small transactions, as many as go: each of several producers, in a thread of its own, sends a few records and commits, again and again.
// Run from source: java -cp "LIBS/*" Transactions.java BOOTSTRAP TOPIC PRODUCERS WARM_UP TRANSACTIONS RECORDS RECORD_BYTES
// WARM_UP and TRANSACTIONS are for each producer. Prints one line: transactions a second of all together, and p50 and p99
// in microseconds from begin to the answered commit, without the warm-up.
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
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Transactions {
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
        var running = new ArrayList<Future<long[]>>();
        for (int number = 0; number < producers; number++) {
            int first = number * measured;
            running.add(threads.submit(() -> {
                try (var producer = producer(arguments[0])) {
                    producer.initTransactions();
                    for (int index = 0; index < warmUp; index++) transact(producer, arguments[1], records, value);
                    warm.await();
                    long began = System.nanoTime();
                    for (int index = 0; index < measured; index++) {
                        long from = System.nanoTime();
                        transact(producer, arguments[1], records, value);
                        nanos[first + index] = System.nanoTime() - from;
                    }
                    return new long[] {began, System.nanoTime()};
                } catch (Throwable failure) {  // or the others would wait for this one at the barrier
                    failure.printStackTrace();
                    Runtime.getRuntime().halt(1);
                    throw failure;
                }
            }));
        }
        long began = Long.MAX_VALUE;
        long ended = Long.MIN_VALUE;
        for (var each : running) {
            began = Math.min(began, each.get()[0]);
            ended = Math.max(ended, each.get()[1]);
        }
        threads.shutdown();
        Arrays.sort(nanos);
        System.out.printf("rate %.2f p50 %.1f p99 %.1f%n",
            nanos.length / ((ended - began) / 1e9), nanos[nanos.length / 2] / 1e3, nanos[(int) (nanos.length * 0.99)] / 1e3);
    }

    private static KafkaProducer<byte[], byte[]> producer(String bootstrap) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("transactional.id", "bench-" + UUID.randomUUID());
        return new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private static void transact(KafkaProducer<byte[], byte[]> producer, String topic, int records, byte[] value) {
        producer.beginTransaction();
        for (int index = 0; index < records; index++) producer.send(new ProducerRecord<>(topic, value));
        producer.commitTransaction();
    }
}
