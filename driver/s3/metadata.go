package s3

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"io"
	"maps"
	"slices"
	"strings"
)

// Metadata are headers of the request, each named twice, the second time in
// what is signed. Stores end all headers at 8 KiB; what would come near that is
// packed into one that no caller can name.
const (
	packed     = "-packed"
	mostHeader = 5 << 10
	perHeader  = 2*len("x-amz-meta-") + 5 // marks and the end of the line
	mostPacked = 16 << 10
)

// headersOf returns metadata as the store is given it.
func headersOf(metadata map[string]string) map[string]string {
	size := 0
	for name, value := range metadata {
		size += 2*len(name) + len(value) + perHeader
	}
	if size <= mostHeader {
		return metadata
	}
	var out bytes.Buffer
	code := base64.NewEncoder(base64.RawURLEncoding, &out)
	shrink, _ := flate.NewWriter(code, flate.BestCompression) // fails only for a level that there is not
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		_, _ = io.WriteString(shrink, name+"\n"+metadata[name]+"\n") // into memory
	}
	_, _ = shrink.Close(), code.Close()
	return map[string]string{packed: out.String()}
}

// metadataOf is headersOf backwards. What somebody else has put under our name
// is left as it is.
func metadataOf(headers map[string]string) map[string]string {
	text, ok := headers[packed]
	if !ok {
		return headers
	}
	in := flate.NewReader(base64.NewDecoder(base64.RawURLEncoding, strings.NewReader(text)))
	all, err := io.ReadAll(io.LimitReader(in, mostPacked))
	lines := strings.Split(string(all), "\n")
	if err != nil || len(lines)%2 == 0 {
		return headers
	}
	metadata := make(map[string]string, len(lines)/2)
	for i := 0; i+1 < len(lines); i += 2 {
		metadata[lines[i]] = lines[i+1]
	}
	return metadata
}
