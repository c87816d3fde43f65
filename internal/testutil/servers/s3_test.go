package servers

import "testing"

func TestS3OfTheEnvironment(t *testing.T) {
	t.Setenv("PRISM_TEST_S3_URL", "s3://carts/here?region=r&endpoint=http://127.0.0.1:9000")
	t.Setenv("PRISM_TEST_S3_CREDENTIALS", "key:sec:ret")
	s := S3(t)
	if s.Managed() || s.Bucket != "carts" || s.Addr != "127.0.0.1:9000" || s.User != "key" || s.Password != "sec:ret" {
		t.Errorf("%+v", s)
	}
}
