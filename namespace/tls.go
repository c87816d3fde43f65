package namespace

import (
	"crypto/tls"
	"crypto/x509"
	"os"

	"github.com/prismgw/prism/errs"
)

// TLS returns the configuration that the document's "tls" asks for, nil if it
// has none. It reads the files that are named there; what is wrong with them
// is an errs.Field below "tls" for every mistake. The caller owns the result.
func (b *Backend) TLS() (*tls.Config, error) {
	t := b.Spec.GetTls()
	if t == nil {
		return nil, nil //nolint:nilnil // no TLS is an answer, as in driver.Config
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.GetServerName()}
	var wrong []errs.Field
	read := func(name, ref string) []byte {
		path, problem := filePath(ref, b.Origin.Dir)
		if problem != "" {
			wrong = append(wrong, errs.Field{Path: "tls." + name, Text: problem})
			return nil
		}
		pem, err := os.ReadFile(path)
		if err != nil {
			wrong = append(wrong, errs.Field{Path: "tls." + name, Text: "the file cannot be read: " + err.Error()})
		}
		return pem
	}
	if t.GetCa() != "" {
		config.RootCAs = x509.NewCertPool()
		if pem := read("ca", t.GetCa()); pem != nil && !config.RootCAs.AppendCertsFromPEM(pem) {
			wrong = append(wrong, errs.Field{Path: "tls.ca", Text: "the file holds no certificate in PEM form"})
		}
	}
	if t.GetCert() != "" {
		cert, key := read("cert", t.GetCert()), read("key", t.GetKey())
		if cert != nil && key != nil {
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				wrong = append(wrong, errs.Field{Path: "tls.cert", Text: "certificate and key cannot be used: " + err.Error()})
			}
			config.Certificates = []tls.Certificate{pair}
		}
	}
	if len(wrong) > 0 {
		return nil, errs.Invalid(wrong...)
	}
	return config, nil
}
