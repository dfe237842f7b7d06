// A client of Go's own resolver (GODEBUG=netdns=go). For each name on standard input it prints one line: the sorted addresses, or
// the error.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
)

func resolve(name string) string {
	addresses, err := net.DefaultResolver.LookupHost(context.Background(), name)
	var failed *net.DNSError
	if errors.As(err, &failed) {
		return fmt.Sprintf("%s, temporary %t, not found %t", failed.Err, failed.IsTemporary, failed.IsNotFound)
	}
	if err != nil {
		return err.Error()
	}
	sort.Strings(addresses)
	return strings.Join(addresses, " ")
}

func main() {
	names := bufio.NewScanner(os.Stdin)
	for names.Scan() {
		fmt.Println(resolve(names.Text()))
	}
}
