import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Kafka's tools one after the other in one process, each by its own main method: a JVM starts slower than they work.
 *
 * A line of stdin is an order: the class, its stdin and its arguments, each in base64 behind a full stop. A line of
 * stdout is the answer: the exit code, and stdout and stderr like those words.
 */
public class Tools {
    private static final List<Runnable> HOOKS = new ArrayList<>();

    private static Integer ended;

    /** What a tool asks for first is its exit code: some catch this, and exit once more. */
    private static void end(int code) {
        ended = ended == null ? code : ended;
        throw new IllegalStateException("exit " + code);
    }

    public static void main(String[] none) throws Exception {
        PrintStream answers = System.out;
        BufferedReader orders = new BufferedReader(new InputStreamReader(System.in));
        Exit.setExitProcedure((code, message) -> end(code));
        Exit.setHaltProcedure((code, message) -> end(code));
        Exit.setShutdownHookAdder((name, hook) -> HOOKS.add(hook));
        for (String line = orders.readLine(); line != null; line = orders.readLine()) {
            String[] words = line.split(" ");
            for (int at = 0; at < words.length; at++) {
                words[at] = new String(Base64.getDecoder().decode(words[at].substring(1)));
            }
            System.setIn(new ByteArrayInputStream(words[1].getBytes()));
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            ByteArrayOutputStream err = new ByteArrayOutputStream();
            System.setOut(new PrintStream(out, true));
            System.setErr(new PrintStream(err, true));
            int code = run(words[0], Arrays.copyOfRange(words, 2, words.length));
            System.out.flush();
            System.err.flush();
            answers.println(code + " ." + text(out) + " ." + text(err));
            answers.flush();
        }
    }

    private static int run(String name, String[] arguments) {
        HOOKS.clear();
        ended = null;
        int failed = 0;
        try {
            Class.forName(name).getMethod("main", String[].class).invoke(null, (Object) arguments);
        } catch (InvocationTargetException thrown) {
            thrown.getCause().printStackTrace();
            failed = 1;
        } catch (ReflectiveOperationException thrown) {
            thrown.printStackTrace();
            failed = 1;
        }
        HOOKS.forEach(Runnable::run);
        return ended == null ? failed : ended;
    }

    private static String text(ByteArrayOutputStream what) {
        return Base64.getEncoder().encodeToString(what.toByteArray());
    }
}
