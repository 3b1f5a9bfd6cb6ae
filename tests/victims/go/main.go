// The victim in Go: built twice, pure (raw system calls, Go's own resolver) and with cgo (libc's resolver).
// The contract is in ../README.md.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
)

// Set by the linker: -X main.name=go-static
var name = "go"

var errnoNames = map[syscall.Errno]string{
	syscall.EACCES:       "EACCES",
	syscall.ECONNREFUSED: "ECONNREFUSED",
	syscall.ECONNRESET:   "ECONNRESET",
	syscall.EHOSTUNREACH: "EHOSTUNREACH",
	syscall.EISDIR:       "EISDIR",
	syscall.ELOOP:        "ELOOP",
	syscall.ENETUNREACH:  "ENETUNREACH",
	syscall.ENOENT:       "ENOENT",
	syscall.ENOTDIR:      "ENOTDIR",
	syscall.EPERM:        "EPERM",
	syscall.EROFS:        "EROFS",
	syscall.ETIMEDOUT:    "ETIMEDOUT",
}

func errorName(err error) string {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		if dns.IsNotFound {
			return "NXDOMAIN"
		}
		return "EAI_AGAIN"
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		if known, ok := errnoNames[errno]; ok {
			return known
		}
		return fmt.Sprintf("E%d", int(errno))
	}
	return strings.ReplaceAll(err.Error(), "\n", " ")
}

func serve(port string) error {
	listener, err := net.Listen("tcp", "0.0.0.0:"+port)
	if err != nil {
		return err
	}
	fmt.Println("listening", port)
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Victim", name)
		fmt.Fprintf(w, `{"lang":"%s","peer":"%s","method":"%s","path":"%s"}`, name, r.RemoteAddr, r.Method, r.RequestURI)
	}))
}

func get(url string) error {
	client := http.Client{Transport: &http.Transport{}} // without the proxy variables of the environment
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	fmt.Println(response.StatusCode)
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

func resolve(host string) error {
	addresses, err := net.LookupHost(host)
	for _, address := range addresses {
		fmt.Println(address)
	}
	return err
}

func connect(host, port string) error {
	conn, err := net.Dial("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Println("ok", conn.LocalAddr(), "->", conn.RemoteAddr())
	return nil
}

func file(path string) error {
	content, err := os.ReadFile(path)
	os.Stdout.Write(content)
	return err
}

func ls(path string) error {
	entries, err := os.ReadDir(path) // sorted
	for _, entry := range entries {
		fmt.Println(entry.Name())
	}
	return err
}

func stat(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	kind := "other"
	switch info.Mode().Type() {
	case 0:
		kind = "file"
	case os.ModeDir:
		kind = "dir"
	case os.ModeSymlink:
		kind = "link"
	}
	fmt.Printf("%d %04o %s\n", info.Size(), info.Sys().(*syscall.Stat_t).Mode&0o7777, kind)
	return nil
}

func main() {
	commands := map[string]func(string) error{
		"serve": serve, "get": get, "resolve": resolve, "file": file, "ls": ls, "stat": stat,
	}
	args := append(os.Args[1:], "", "")
	run := commands[args[0]]
	if args[0] == "connect" {
		run = func(host string) error { return connect(host, args[2]) }
	}
	if run == nil || args[1] == "" {
		fmt.Fprintln(os.Stderr, "usage: victim serve PORT | get URL | resolve NAME | connect HOST PORT | file PATH | ls DIR | stat PATH")
		os.Exit(2)
	}
	if err := run(args[1]); err != nil {
		fmt.Println("error", errorName(err))
		os.Exit(1)
	}
}
