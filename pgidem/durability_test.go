package pgidem

import (
	"context"
	"errors"
	"maps"
	"testing"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// G3 for every COMMIT of the library, where the setting comes from the role: off and local are raised to on, whatever
// promises more is left as it is. A deferred trigger runs inside COMMIT and sees the value that counts.
func TestSynchronousCommitOfTheRole(t *testing.T) {
	for setting, want := range map[string]string{
		"off": "on", "local": "on", "remote_write": "remote_write", "on": "on", "remote_apply": "remote_apply",
	} {
		t.Run(setting, func(t *testing.T) {
			b := setup(t)
			role := b.observe()
			b.must(role.Exec(b.Context(), `
				CREATE TABLE seen (operation text, state text, value text);
				CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
					INSERT INTO seen VALUES (TG_OP, coalesce(NEW.state, OLD.state), current_setting('synchronous_commit'));
					RETURN NULL;
				END $$;
				CREATE CONSTRAINT TRIGGER see AFTER INSERT OR UPDATE OR DELETE ON idempotency_keys
					DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION see();
				DO $$ BEGIN
					EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I SET synchronous_commit = `+setting+`', current_database());
				END $$`))
			b.faults.RefuseCancel(true)
			b.faults.Cut(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT"})
			b.must(DoTx(b.Context(), b.client, b.key, b.effect("done")))
			b.must(nil, b.client.Forget(b.Context(), b.key))
			_, err := DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (string, error) { return "", Permanent(errors.New("no")) })
			var failure *Failure
			if !errors.As(err, &failure) {
				b.Fatalf("got %v, want the failure", err)
			}
			got := map[string]string{}
			for _, write := range []string{"INSERT succeeded", "UPDATE succeeded", "DELETE succeeded", "INSERT failed"} {
				got[write] = one[string](b, role, "SELECT string_agg(value, ', ') FROM seen WHERE operation || ' ' || state = $1", write)
			}
			all := map[string]string{"INSERT succeeded": want, "UPDATE succeeded": want, "DELETE succeeded": want, "INSERT failed": want}
			if !maps.Equal(got, all) {
				b.Errorf("in force at COMMIT: %v, want %s in all", got, want)
			}
		})
	}
}
