// Runs a task's tests against a sample in one JVM, and says so with a nonce once they are through.
//
// The sample's classes and the tests' come from loaders that do not know of each other: a class of the sample cannot take
// the place of java.util.Arrays in the tests. The tests' Solution is ours; it calls the sample's through `call` below and
// hands back copies of what that answers, so that no answer brings its own `equals`.
//
//   stdin: the nonce      s/ the sample's classes   t/ the tests'
//   exit code 3: the tests failed   4: the sample threw   6: an answer is no plain data   8: memory was refused
import java.io.*;
import java.lang.reflect.*;
import java.math.*;
import java.net.*;
import java.nio.file.*;
import java.util.*;

public class AquilaRunner {
    private static Class<?> sample;

    public static void main(String[] args) throws Exception {
        byte[] nonce = System.in.readAllBytes();
        PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), true);
        PrintStream err = System.err;
        Runtime runtime = Runtime.getRuntime();
        ClassLoader platform = ClassLoader.getPlatformClassLoader();
        try (URLClassLoader samples = new URLClassLoader(new URL[] {Path.of("s").toUri().toURL()}, platform);
                URLClassLoader tests = new URLClassLoader(new URL[] {Path.of("t").toUri().toURL()}, AquilaRunner.class.getClassLoader())) {
            int code;
            try {
                sample = Class.forName("Solution", true, samples);
                tests.loadClass("Main").getMethod("main", String[].class).invoke(null, (Object) new String[0]);
                code = 0;
            } catch (Throwable problem) {
                code = explain(problem, err);
            }
            if (code == 0) {
                out.write(nonce);
                out.flush();
            }
            runtime.halt(code);
        }
    }

    private static int explain(Throwable problem, PrintStream err) {
        Throwable cause = problem instanceof InvocationTargetException ? problem.getCause() : problem;
        boolean ofSample = cause instanceof Ended || cause instanceof ExceptionInInitializerError;
        Throwable inner = ofSample && cause.getCause() != null ? cause.getCause() : cause;
        String said;
        try {
            said = String.valueOf(inner);
        } catch (Throwable another) {
            said = inner.getClass().getName();
        }
        err.println("\n" + said);
        if (inner instanceof OutOfMemoryError) return 8;
        if (cause instanceof OddAnswer) return 6;
        return ofSample || cause instanceof LinkageError || cause instanceof ReflectiveOperationException ? 4 : 3;
    }

    /** What the sample threw; nothing that tests catch. */
    public static final class Ended extends Error {
        Ended(Throwable cause) {
            super(cause);
        }
    }

    public static final class OddAnswer extends Error {
        OddAnswer(String message) {
            super(message, null, false, false);
        }
    }

    public static Object create() {
        try {
            Constructor<?> constructor = sample.getDeclaredConstructor();
            constructor.setAccessible(true);
            return constructor.newInstance();
        } catch (InvocationTargetException problem) {
            throw new Ended(problem.getCause());
        } catch (ReflectiveOperationException problem) {
            throw new Ended(problem);
        }
    }

    public static Object call(Object target, String name, Class<?>[] types, Object... values) {
        try {
            Method method = sample.getDeclaredMethod(name, types);
            method.setAccessible(true);
            return plain(method.invoke(target, values));
        } catch (InvocationTargetException problem) {
            throw new Ended(problem.getCause());
        } catch (ReflectiveOperationException problem) {
            throw new Ended(problem);
        }
    }

    private static Object plain(Object value) {
        if (value == null || value instanceof String || value instanceof Boolean || value instanceof Character) return value;
        if (value.getClass().getClassLoader() == null && value instanceof Number) {
            if (value instanceof BigInteger) return new BigInteger(((BigInteger) value).toByteArray());
            return value;
        }
        if (value instanceof Optional) return ((Optional<?>) value).map(AquilaRunner::plain);
        if (value instanceof Map) {
            Map<Object, Object> copy = new LinkedHashMap<>();
            for (Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet()) copy.put(plain(entry.getKey()), plain(entry.getValue()));
            return copy;
        }
        if (value instanceof Set) {
            Set<Object> copy = new LinkedHashSet<>();
            for (Object item : (Set<?>) value) copy.add(plain(item));
            return copy;
        }
        if (value instanceof Collection) {
            List<Object> copy = new ArrayList<>();
            for (Object item : (Collection<?>) value) copy.add(plain(item));
            return copy;
        }
        if (value.getClass().isArray()) {
            int length = Array.getLength(value);
            Object copy = Array.newInstance(value.getClass().getComponentType(), length);
            for (int i = 0; i < length; i++) Array.set(copy, i, plain(Array.get(value, i)));
            return copy;
        }
        if (value.getClass() == Object.class) return new Object();
        throw new OddAnswer("it answered an object of " + value.getClass().getName());
    }
}
