package bench;

import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.util.Locale;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** Counts the records of each key in a store with a changelog, and forwards a reply for each; ends after COUNT. */
public final class Turns {
    private static final AtomicLong started = new AtomicLong();
    private static final AtomicLong startedCpu = new AtomicLong();
    private static final AtomicLong done = new AtomicLong();
    private static final CountDownLatch all = new CountDownLatch(1);
    private static final String PAD = "x".repeat(60);

    private static long cpu() {
        return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean())
            .getProcessCpuTime();
    }

    private static final class Counting implements Processor<byte[], byte[], byte[], byte[]> {
        private final long count;
        private ProcessorContext<byte[], byte[]> context;
        private KeyValueStore<byte[], byte[]> store;

        Counting(long count) {
            this.count = count;
        }

        @Override
        public void init(ProcessorContext<byte[], byte[]> context) {
            this.context = context;
            store = context.getStateStore("counts");
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            if (started.compareAndSet(0, System.nanoTime())) startedCpu.set(cpu());
            byte[] old = store.get(record.key());
            long total = 1;
            if (old != null) {
                String text = new String(old, StandardCharsets.US_ASCII);
                total += Long.parseLong(text.substring(0, text.indexOf(' ')));
            }
            byte[] state = (total + " " + PAD).getBytes(StandardCharsets.US_ASCII);
            store.put(record.key(), state);
            context.forward(record.withValue(state));
            if (done.incrementAndGet() == count) {
                context.commit();
                all.countDown();
            }
        }
    }

    public static void main(String[] args) throws Exception {
        String broker = args[0], source = args[1], replies = args[2], id = args[3];
        long count = Long.parseLong(args[4]);
        Properties p = new Properties();
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, id);
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, broker);
        p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, args[5]);
        p.put(StreamsConfig.STATE_DIR_CONFIG, args[6]);
        p.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        p.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        p.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        p.put(StreamsConfig.producerPrefix("acks"), "all");
        p.put(StreamsConfig.producerPrefix("batch.size"), 900000);
        p.put(StreamsConfig.producerPrefix("enable.idempotence"), true);
        Topology topology = new Topology();
        topology.addSource("in", source);
        topology.addProcessor("count", () -> new Counting(count), "in");
        topology.addStateStore(
            // The cache joins the changes of a key until the next commit, as our batches do.
            Stores.keyValueStoreBuilder(
                Stores.inMemoryKeyValueStore("counts"), Serdes.ByteArray(), Serdes.ByteArray()).withCachingEnabled(),
            "count");
        topology.addSink("out", replies, "count");
        KafkaStreams streams = new KafkaStreams(topology, p);
        streams.start();
        all.await();
        // Closing flushes and commits: the last ack has come when it returns.
        long closing = System.nanoTime();
        streams.close();
        long ended = System.nanoTime();
        double seconds = (ended - started.get()) / 1e9;
        System.out.printf(
            Locale.ROOT,
            "RESULT {\"per_s\": %f, \"seconds\": %f, \"count\": %d, \"cpu_us\": %f, \"closing_s\": %f}%n",
            done.get() / seconds, seconds, done.get(), (cpu() - startedCpu.get()) / 1e3 / done.get(),
            (ended - closing) / 1e9);
        System.out.flush();
    }
}
