// Command hello is the application of the distroless-like test image: a static HTTP server, no shell,
// no libc. It answers every request with one line of JSON about the request and about where it runs.
package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	listen := os.Getenv("LISTEN")
	if listen == "" {
		listen = ":8080"
	}
	host, _ := os.Hostname()
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{
			"served_by": host,
			"greeting":  os.Getenv("GREETING"),
			"method":    r.Method,
			"path":      r.URL.Path,
			"peer":      r.RemoteAddr,
			"body":      string(body),
		})
	})
	log.Fatal(http.ListenAndServe(listen, nil))
}
