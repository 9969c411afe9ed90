// Compiles one class after another in one JVM: starting javac anew would take six times as long.
//
//   request   package of files: NAME BASE64 NAME BASE64 ...
//   reply     ok NAME BASE64 ...   (class files)      or   error BASE64   (what javac says)
import java.io.*;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.*;
import javax.tools.*;

public class AquilaCompiler {
    static final class Source extends SimpleJavaFileObject {
        private final String text;

        Source(String name, String text) {
            super(URI.create("string:///" + name), Kind.SOURCE);
            this.text = text;
        }

        @Override
        public CharSequence getCharContent(boolean ignoreEncodingErrors) {
            return text;
        }
    }

    static final class Output extends ForwardingJavaFileManager<StandardJavaFileManager> {
        final Map<String, ByteArrayOutputStream> classes = new TreeMap<>();

        Output(StandardJavaFileManager manager) {
            super(manager);
        }

        @Override
        public JavaFileObject getJavaFileForOutput(Location place, String name, JavaFileObject.Kind kind, FileObject from) {
            return new SimpleJavaFileObject(URI.create("mem:///" + name + kind.extension), kind) {
                @Override
                public OutputStream openOutputStream() {
                    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
                    classes.put(name, bytes);
                    return bytes;
                }
            };
        }
    }

    public static void main(String[] args) throws IOException {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        StandardJavaFileManager manager = compiler.getStandardFileManager(null, null, StandardCharsets.UTF_8);
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        PrintStream replies = System.out;
        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            String reply;
            try {
                reply = answer(compiler, manager, line.split(" "));
            } catch (Throwable problem) {
                reply = "error " + encode((problem + "").getBytes(StandardCharsets.UTF_8));
            }
            replies.print(reply + "\n");
            replies.flush();
        }
    }

    private static String answer(JavaCompiler compiler, StandardJavaFileManager manager, String[] words) {
        List<Source> sources = new ArrayList<>();
        for (int i = 0; i + 1 < words.length; i += 2) {
            String text = new String(Base64.getDecoder().decode(words[i + 1]), StandardCharsets.UTF_8);
            sources.add(new Source(words[i], text));
        }
        Output output = new Output(manager);
        StringWriter said = new StringWriter();
        List<String> options = List.of("-proc:none", "-nowarn", "-g:none", "-implicit:none", "-cp", "none");
        if (!compiler.getTask(said, output, null, options, null, sources).call()) {
            return "error " + encode(said.toString().getBytes(StandardCharsets.UTF_8));
        }
        StringBuilder reply = new StringBuilder("ok");
        output.classes.forEach((name, bytes) -> reply.append(' ').append(name).append(' ').append(encode(bytes.toByteArray())));
        return reply.toString();
    }

    private static String encode(byte[] bytes) {
        return bytes.length == 0 ? "=" : Base64.getEncoder().encodeToString(bytes);
    }
}
