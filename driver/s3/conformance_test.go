package s3_test

import (
	"encoding/json"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/s3"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// config is that of a document for a server that tests have started.
func config(s *servers.S3Server, url string) driver.Config {
	return driver.Config{
		Name: "test", URL: url, Credentials: s.Login(),
		Asserts: json.RawMessage(`{"survives": "process"}`),
	}
}

func TestConformance(t *testing.T) {
	shared := servers.S3(t)
	drivertest.RunBlob(t, drivertest.BlobHarness{
		Name:       "s3 (versitygw)",
		Driver:     s3.Driver(),
		Config:     config(shared, shared.URL),
		Persistent: true,
		Server: func(tb testing.TB) drivertest.Server {
			own := servers.S3With(tb)
			return drivertest.Server{
				Process: own, Addr: own.Addr,
				Config: func(addr string) driver.Config { return config(own, own.Through(addr)) },
			}
		},
	})
}
