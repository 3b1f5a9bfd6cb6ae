import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.ConnectException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.NoRouteToHostException;
import java.net.URI;
import java.net.UnknownHostException;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.channels.UnresolvedAddressException;
import java.nio.file.AccessDeniedException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.nio.file.Path;
import java.util.concurrent.Executors;

/** The victim in Java: NIO channels (dual-stack sockets), the JDK's HTTP server and client. The contract is in ../README.md. */
public final class Victim {
    private static final String NAME = "java";

    private static void serve(int port) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress("0.0.0.0", port), 128);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", exchange -> {
            exchange.getRequestBody().readAllBytes();
            byte[] body = String.format("{\"lang\":\"%s\",\"peer\":\"%s\",\"method\":\"%s\",\"path\":\"%s\"}",
                NAME, show(exchange.getRemoteAddress()), exchange.getRequestMethod(), exchange.getRequestURI()).getBytes();
            exchange.getResponseHeaders().set("Content-Type", "application/json");
            exchange.getResponseHeaders().set("X-Victim", NAME);
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
        // The JVM would turn SIGTERM into exit code 143.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> Runtime.getRuntime().halt(0)));
        print("listening " + port);
    }

    private static void get(String url) throws IOException, InterruptedException {
        HttpClient client = HttpClient.newBuilder().proxy(HttpClient.Builder.NO_PROXY).build();
        HttpRequest request = HttpRequest.newBuilder(URI.create(url)).build();
        HttpResponse<byte[]> response = client.send(request, HttpResponse.BodyHandlers.ofByteArray());
        print(String.valueOf(response.statusCode()));
        System.out.write(response.body());
        System.out.flush();
    }

    private static void resolve(String name) throws IOException {
        for (InetAddress address : InetAddress.getAllByName(name)) print(address.getHostAddress());
    }

    private static void connect(String host, int port) throws IOException {
        try (SocketChannel channel = SocketChannel.open(); Selector selector = Selector.open()) {
            channel.configureBlocking(false);
            channel.register(selector, SelectionKey.OP_CONNECT);
            if (!channel.connect(new InetSocketAddress(host, port))) {
                selector.select();
                channel.finishConnect();
            }
            print("ok " + show((InetSocketAddress) channel.getLocalAddress())
                + " -> " + show((InetSocketAddress) channel.getRemoteAddress()));
        }
    }

    private static void file(Path path) throws IOException {
        try (InputStream in = Files.newInputStream(path)) {
            in.transferTo(System.out);
        }
        System.out.flush();
    }

    private static void ls(Path dir) throws IOException {
        try (var entries = Files.list(dir)) {
            entries.map(entry -> entry.getFileName().toString()).sorted().forEach(Victim::print);
        }
    }

    private static void stat(Path path) throws IOException {
        int mode = (Integer) Files.getAttribute(path, "unix:mode");
        String type = switch (mode & 0170000) {
            case 0100000 -> "file";
            case 0040000 -> "dir";
            case 0120000 -> "link";
            default -> "other";
        };
        print(String.format("%d %04o %s", Files.size(path), mode & 07777, type));
    }

    private static String show(InetSocketAddress address) {
        // Java writes out every zero of an IPv6 address.
        String host = address.getAddress().getHostAddress().replaceFirst("(^|:)(0(:|$)){2,}", "::");
        return (host.contains(":") ? "[" + host + "]" : host) + ":" + address.getPort();
    }

    private static void print(String line) {
        System.out.println(line);
        System.out.flush();
    }

    /** Java hides errno: the exception's class, or libc's words somewhere down the chain of causes, tell it. */
    private static String errorName(Throwable error) {
        for (Throwable e = error; e != null; e = e.getCause()) {
            String words = String.valueOf(e.getMessage());
            if (words.contains("Temporary failure")) return "EAI_AGAIN";
            if (e instanceof UnknownHostException || e instanceof UnresolvedAddressException) return "NXDOMAIN";
            if (e instanceof NoSuchFileException) return "ENOENT";
            if (e instanceof AccessDeniedException) return "EACCES";
            if (e instanceof NotDirectoryException || words.endsWith("Not a directory")) return "ENOTDIR";
            if (words.endsWith("Is a directory")) return "EISDIR";
            if (words.contains("Connection refused")) return "ECONNREFUSED";
            if (words.contains("Network is unreachable")) return "ENETUNREACH";
            if (words.contains("timed out")) return "ETIMEDOUT";
            if (words.contains("Connection reset")) return "ECONNRESET";
            if (e instanceof NoRouteToHostException || words.contains("No route to host")) return "EHOSTUNREACH";
        }
        // The HTTP client drops the words of a refusal, and of no other failure.
        return error instanceof ConnectException ? "ECONNREFUSED" : error.toString();
    }

    public static void main(String[] args) {
        String command = args.length < 2 || (args[0].equals("connect") && args.length < 3) ? "" : args[0];
        try {
            switch (command) {
                case "serve" -> serve(Integer.parseInt(args[1]));
                case "get" -> get(args[1]);
                case "resolve" -> resolve(args[1]);
                case "connect" -> connect(args[1], Integer.parseInt(args[2]));
                case "file" -> file(Path.of(args[1]));
                case "ls" -> ls(Path.of(args[1]));
                case "stat" -> stat(Path.of(args[1]));
                default -> {
                    System.err.println("usage: victim serve | get | resolve | connect | file | ls | stat");
                    System.exit(2);
                }
            }
        } catch (IOException | InterruptedException | UnresolvedAddressException e) {
            print("error " + errorName(e));
            System.exit(1);
        }
    }
}
