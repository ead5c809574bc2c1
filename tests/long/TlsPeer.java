import java.io.*;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.SecureRandom;
import java.security.cert.X509Certificate;
import javax.net.ssl.*;

/**
 * A WebSocket peer by Java's TLS, for tls_matrix.py. `client PORT VERSION SUITE` says each line of its standard
 * input as a frame, and prints each frame that comes; `server VERSION SUITE KEYSTORE` prints its port and echoes.
 */
public class TlsPeer {
    static final String SWITCHING = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        + "Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    static final String HANDSHAKE = "GET /plain HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        + "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    public static void main(String[] arguments) throws Exception {
        if (arguments[0].equals("client")) {
            client(Integer.parseInt(arguments[1]), arguments[2], arguments[3]);
        } else {
            server(arguments[1], arguments[2], arguments[3]);
        }
    }

    static void client(int port, String version, String suite) throws Exception {
        TrustManager anyone = new X509TrustManager() {
            public void checkClientTrusted(X509Certificate[] chain, String kind) {}
            public void checkServerTrusted(X509Certificate[] chain, String kind) {}
            public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
        };
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {anyone}, new SecureRandom());
        SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket("127.0.0.1", port);
        socket.setEnabledProtocols(new String[] {version});
        socket.setEnabledCipherSuites(new String[] {suite});
        OutputStream out = socket.getOutputStream();
        DataInputStream in = new DataInputStream(socket.getInputStream());
        out.write(HANDSHAKE.getBytes(StandardCharsets.US_ASCII));
        skipHead(in);
        new Thread(() -> {
            try {
                while (true) {
                    System.out.println(new String(frame(in), StandardCharsets.US_ASCII));
                }
            } catch (IOException error) {
                System.out.println("ended: " + error);
            }
        }).start();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null;) {
            out.write(framed(line.getBytes(StandardCharsets.US_ASCII), true));
        }
        System.exit(0);
    }

    static void server(String version, String suite, String keystore) throws Exception {
        KeyStore keys = KeyStore.getInstance("PKCS12");
        keys.load(new FileInputStream(keystore), "matrix".toCharArray());
        KeyManagerFactory factory = KeyManagerFactory.getInstance("SunX509");
        factory.init(keys, "matrix".toCharArray());
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(factory.getKeyManagers(), null, new SecureRandom());
        SSLServerSocket listener = (SSLServerSocket) context.getServerSocketFactory().createServerSocket(0);
        listener.setEnabledProtocols(new String[] {version});
        listener.setEnabledCipherSuites(new String[] {suite});
        System.out.println(listener.getLocalPort());
        while (true) {
            Socket socket = listener.accept();
            new Thread(() -> {
                try {
                    DataInputStream in = new DataInputStream(socket.getInputStream());
                    OutputStream out = socket.getOutputStream();
                    skipHead(in);
                    out.write(SWITCHING.getBytes(StandardCharsets.US_ASCII));
                    while (true) {
                        out.write(framed(frame(in), false));
                    }
                } catch (IOException error) {
                    System.err.println("ended: " + error);
                }
            }).start();
        }
    }

    static void skipHead(DataInputStream in) throws IOException {
        for (int seen = 0; seen < 4;) {
            int wanted = seen % 2 == 0 ? '\r' : '\n';
            seen = in.readUnsignedByte() == wanted ? seen + 1 : 0;
        }
    }

    /** A mask is of zeros here. */
    static byte[] frame(DataInputStream in) throws IOException {
        in.readUnsignedByte();
        int length = in.readUnsignedByte();
        boolean isMasked = length > 127;
        length &= 127;
        if (length == 126) {
            length = in.readUnsignedShort();
        }
        if (isMasked) {
            in.readInt();
        }
        byte[] payload = new byte[length];
        in.readFully(payload);
        return payload;
    }

    static byte[] framed(byte[] payload, boolean isMasked) {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        int mask = isMasked ? 128 : 0;
        out.write(0x81);
        if (payload.length < 126) {
            out.write(mask | payload.length);
        } else {
            out.write(mask | 126);
            out.write(payload.length >> 8);
            out.write(payload.length & 255);
        }
        out.writeBytes(new byte[isMasked ? 4 : 0]);
        out.writeBytes(payload);
        return out.toByteArray();
    }
}
