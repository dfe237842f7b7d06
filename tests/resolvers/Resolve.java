// A client of Java's InetAddress. For each name on standard input it prints one line: the sorted addresses, or the error.

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.security.Security;
import java.util.Arrays;
import java.util.stream.Collectors;

class Resolve {
    public static void main(String[] arguments) throws IOException {
        // What is looked up twice is asked for twice.
        Security.setProperty("networkaddress.cache.ttl", "0");
        Security.setProperty("networkaddress.cache.negative.ttl", "0");
        BufferedReader names = new BufferedReader(new InputStreamReader(System.in));
        for (String name = names.readLine(); name != null; name = names.readLine()) {
            System.out.println(resolve(name));
        }
    }

    private static String resolve(String name) {
        try {
            return Arrays.stream(InetAddress.getAllByName(name))
                    .map(InetAddress::getHostAddress).sorted().collect(Collectors.joining(" "));
        } catch (UnknownHostException error) {
            return String.valueOf(error.getMessage()).replace(name + ": ", "");
        }
    }
}
