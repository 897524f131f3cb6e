package cuda

import "reflect"

// A function is a function of the driver: its name in the library, and where its address goes.
type function struct {
	name    string
	address *uintptr
}

// all lists the functions.
func (f *functions) all() []function {
	var all []function
	v := reflect.ValueOf(f).Elem()
	for i := range v.NumField() {
		field := v.Type().Field(i)
		all = append(all, function{"cu" + field.Name + field.Tag.Get("version"), v.Field(i).Addr().Interface().(*uintptr)})
	}
	return all
}
